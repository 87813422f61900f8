"""Retries, backoff, losses, and results that come late, twice or from somebody else."""

from decimal import Decimal
from itertools import pairwise

import pytest

from corral.api.errors import INFRASTRUCTURE, NEVER_RETRIED, ErrorClass
from corral.api.workflow import Backoff
from corral.plan.observed import Result
from corral.plan.retry import MAX_LOSSES, backoff_seconds
from corral.plan.state import Consumption
from tests.unit.plan.driver import HANGS, Simulation, fails, ok, run, used

COUNTED = sorted(set(ErrorClass) - INFRASTRUCTURE - NEVER_RETRIED)
ONE = "steps: [{{name: a, agentRef: {{name: x}}, input: try $(attempt), {}}}]"


def retry(strategy: str) -> str:
    return ONE.format(f"retryStrategy: {strategy}")


def attempts(sim: Simulation) -> list[int]:
    return [s.attempt for s in sim.started]


@pytest.mark.parametrize("error", COUNTED)
def test_without_a_strategy_there_is_one_attempt(error: ErrorClass) -> None:
    sim = run(ONE.format("timeout: 1m"), {"a": fails(error)})
    assert (attempts(sim), sim.row("a").reason) == ([1], error)


@pytest.mark.parametrize("error", COUNTED)
@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_limit_counts_retries_after_the_first_attempt(error: ErrorClass, limit: int) -> None:
    sim = run(retry(f"{{limit: {limit}}}"), {"a": fails(error)})
    assert attempts(sim) == list(range(1, limit + 2))
    assert sim.row("a").attempts == limit + 1
    assert sim.phases == {"a": "Failed"}


@pytest.mark.parametrize("error", sorted(NEVER_RETRIED))
def test_some_errors_are_never_retried(error: ErrorClass) -> None:
    sim = run(retry(f"{{limit: 5, onErrors: [{error}, Timeout]}}"), {"a": fails(error)})
    assert attempts(sim) == [1]


@pytest.mark.parametrize("error", sorted(INFRASTRUCTURE))
def test_losses_are_not_counted_and_bounded_on_their_own(error: ErrorClass) -> None:
    sim = run(ONE.format("timeout: 1m"), {"a": fails(error)})
    assert len(attempts(sim)) == MAX_LOSSES + 1
    assert sim.row("a").reason == error


def test_losses_leave_the_limit_to_other_errors() -> None:
    script = [fails("WorkerLost"), fails("Timeout"), fails("RateLimited"), fails("Timeout"), ok()]
    assert attempts(run(retry("{limit: 1}"), {"a": script})) == [1, 2, 3, 4]
    assert run(retry("{limit: 2}"), {"a": script}).phases == {"a": "Succeeded"}


def test_a_lost_worker_is_replaced_at_once_and_later_losses_wait() -> None:
    sim = run(ONE.format("timeout: 1m"), {"a": [fails("WorkerLost"), fails("WorkerLost"), ok()]})
    times = [at for _, at in sim.starts]
    assert times[:2] == [0, 1]
    assert 2.4 <= times[2] <= 2.6


def test_a_rate_limit_is_waited_for() -> None:
    sim = run(ONE.format("timeout: 1m"), {"a": [fails("RateLimited"), ok()]})
    assert 1.4 <= sim.starts[1][1] <= 1.6


@pytest.mark.parametrize(
    ("on_errors", "error", "count"),
    [
        ("[Timeout]", "Timeout", 3),
        ("[Timeout]", "InvalidOutput", 1),
        ("[Timeout, InvalidOutput]", "InvalidOutput", 3),
        ("[Timeout]", "WorkerLost", MAX_LOSSES + 1),
    ],
)
def test_only_the_listed_errors_are_retried(on_errors: str, error: str, count: int) -> None:
    sim = run(retry(f"{{limit: 2, onErrors: {on_errors}}}"), {"a": fails(error)})
    assert len(attempts(sim)) == count


def test_waits_grow_by_the_factor_up_to_the_maximum() -> None:
    strategy = "{limit: 5, backoff: {duration: 1s, factor: 3, maxDuration: 10s}}"
    sim = run(retry(strategy), {"a": fails(takes=0.5)})
    times = [at for _, at in sim.starts]
    waits = [b - a - 0.5 for a, b in pairwise(times)]
    assert waits == [1, 3, 9, 10, 10]


@pytest.mark.parametrize("retry_number", [1, 2, 5, 63, 64, 1000])
@pytest.mark.parametrize("jitter", [0, 20, 100])
def test_a_wait_keeps_its_bounds(retry_number: int, jitter: int) -> None:
    backoff = Backoff(duration="1s", factor=100, max_duration="30s", jitter_percent=jitter)
    plain = min(100.0 ** min(retry_number - 1, 9), 30.0)
    found = {backoff_seconds(backoff, retry_number, f"run.a.0.1.{n}") for n in range(50)}
    assert all(plain * (1 - jitter / 100) <= wait <= 30.0 for wait in found)
    assert all(wait <= plain * (1 + jitter / 100) for wait in found)
    assert (len(found) > 1) == (jitter > 0)
    assert backoff_seconds(backoff, retry_number, "k") == backoff_seconds(
        backoff, retry_number, "k"
    )


def test_while_it_waits_the_row_says_why() -> None:
    sim = Simulation(
        retry("{limit: 1, backoff: {duration: 30s}}"), {"a": [fails("Timeout", "slow"), ok()]}
    ).to(5)
    row = sim.row("a")
    assert (row.phase, row.reason, row.message) == ("Waiting", "Timeout", "slow")
    assert sim.wake == [31.0]
    sim.end()
    assert (sim.row("a").reason, sim.row("a").message) == (None, None)


def test_the_input_is_rendered_again_for_each_attempt() -> None:
    sim = run(retry("{limit: 1}"), {"a": [fails(), ok()]})
    assert [sim.input_of("a", 0, n) for n in (1, 2)] == ["try 1", "try 2"]


def test_every_attempt_is_paid_for() -> None:
    sim = run(retry("{limit: 2}"), {"a": [fails(), fails("WorkerLost"), ok(cost="0.03")]})
    assert sim.row("a").cost_usd == "0.05"
    assert sim.status.usage is not None
    assert (sim.status.usage.requests, sim.status.usage.cost_usd) == (3, "0.05")


# Results that do not fit


def hanging() -> Simulation:
    sim = Simulation(ONE.format("timeout: 10s, retryStrategy: {limit: 1}"), {"a#1": HANGS})
    sim.tick()
    return sim


def result(attempt: int = 1, uid: str = "uid-x", **more: object) -> Result:
    values: dict[str, object] = {"output": "late", "used": used("1")} | more
    return Result(f"run-1.a.0.1.{attempt}", uid, **values)  # type: ignore[arg-type]


def test_a_worker_that_says_nothing_is_given_up_and_its_usage_booked_once_when_it_comes() -> None:
    sim = hanging().to(25)
    assert sim.row("a").message == "the worker gave no answer"
    assert list(sim.run_state.unsettled) == ["run-1.a.0.1.1"]
    sim.end()
    assert sim.phases == {"a": "Succeeded"}
    assert sim.row("a").cost_usd == "0.01"
    for _ in range(2):
        sim.deliver(result(), sim.now)
        sim.deliver(result(), sim.now)
        sim.tick()
    assert sim.run_state.unsettled == {}
    assert sim.run_state.late.cost == Decimal(1)
    assert sim.status.usage is not None
    assert (sim.status.usage.cost_usd, sim.status.usage.requests) == ("1.01", 2)
    assert sim.row("a").output == "done"


def test_a_late_result_does_not_end_the_attempt_that_replaced_it() -> None:
    sim = hanging().to(26)
    sim.deliver(result(), sim.now)
    sim.tick()
    assert sim.phases == {"a": "Running"}
    assert sim.run_state.late.cost == Decimal(1)


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(result(uid="uid-other"), id="another worker"),
        pytest.param(result(attempt=2), id="an attempt that is not started"),
        pytest.param(
            Result("run-0.a.0.1.1", "uid-x", Consumption(), "x"), id="another run of that name"
        ),
        pytest.param(Result("run-1.b.0.1.1", "uid-x", Consumption(), "x"), id="an unknown step"),
        pytest.param(Result("nonsense", "uid-x", Consumption(), "x"), id="an id that is none"),
    ],
)
def test_a_result_is_dropped_that_comes_from(stranger: Result) -> None:
    sim = hanging()
    before = sim.status
    sim.deliver(stranger, 0)
    sim.tick()
    assert sim.status == before


def test_a_strangers_result_does_not_hide_the_right_one_in_the_same_pass() -> None:
    sim = hanging()
    sim.deliver(result(uid="uid-other"), 1)
    sim.deliver(result(), 1)
    sim.end()
    assert sim.row("a").output == "late"


@pytest.mark.parametrize("passes", [1, 2])
def test_a_result_that_comes_twice_counts_once(passes: int) -> None:
    sim = hanging()
    sim.deliver(result(), 1)
    sim.deliver(result(output="again"), passes)
    sim.to(2)
    assert (sim.row("a").output, sim.row("a").cost_usd) == ("late", "1")


def test_a_failure_that_comes_twice_is_retried_once() -> None:
    sim = hanging()
    for _ in range(2):
        sim.deliver(result(error=ErrorClass.TIMEOUT), 1)
    sim.to(1)
    assert sim.run_state.steps["a"].nodes[0].retries == 1


def test_a_given_up_attempts_result_from_another_worker_stays_unsettled() -> None:
    sim = hanging().to(25)
    sim.deliver(result(uid="uid-other"), sim.now)
    sim.tick()
    assert list(sim.run_state.unsettled) == ["run-1.a.0.1.1"]
    assert sim.run_state.late.cost is None
