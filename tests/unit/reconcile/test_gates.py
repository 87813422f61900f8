"""The gates of all Models: who begins with which, what is called, and what a restart keeps."""

from dataclasses import dataclass, field

import pytest

from corral.api.errors import ErrorClass, Reason
from corral.api.model import ModelSpec, ModelStatus
from corral.plan.limits import Load
from corral.plan.observed import ModelCalls, ModelView, Rates, Result, Want
from corral.plan.state import Consumption
from corral.reconcile.gates import Gates

ONE = Load(1, 1, 10)
RUN = ("ns", "run")
OTHER = ("ns", "other")


def view(name: str, *on_errors: ErrorClass) -> ModelView:
    return ModelView(name, frozenset(on_errors), Rates(), ONE, Load(1, 4, 40))


def want(number: int, *models: ModelView, run: str = "run") -> Want:
    return Want(f"{run}.s.{number}.1.1", "agent", models or (view("m"),))


def calls(model: str = "m", failures: int = 0, retry_after: float | None = None) -> ModelCalls:
    return ModelCalls(model, 1, 10, not failures, failures, retry_after)


def result(attempt: str, *of_models: ModelCalls) -> Result:
    return Result(attempt, "w0", Consumption(), calls=of_models or (calls(),))


@dataclass
class Table:
    """Gates with a clock by hand, and a record of who was called."""

    gates: Gates = field(default_factory=Gates)
    now: float = 1000.0
    woken: list[tuple[str, str]] = field(default_factory=list)
    passes: set[int] = field(default_factory=set)
    """In how many seconds passes over Models were asked for."""
    specs: dict[str, ModelSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gates.clock = lambda: self.now
        self.gates.specs = lambda _: self.specs
        self.gates.wake_workflow = lambda key, _: self.woken.append(key)
        self.gates.wake_model = lambda _, delay: self.passes.add(round(delay))

    def model(self, name: str = "m", **limits: int) -> "Table":
        self.specs[name] = ModelSpec.model_validate(
            {
                "provider": "openai",
                "name": name,
                "limits": limits,
                "circuitBreaker": {"failureThreshold": 2, "resetAfter": "30s"},
            }
        )
        return self

    def admit(self, *wants: Want, run: tuple[str, str] = RUN) -> dict[str, str | None]:
        return self.gates.admit(run, "ns", wants, 0)

    def fail(self, *numbers: int, model: str = "m") -> None:
        """Lets attempts pass, and fail."""
        for number in numbers:
            self.admit(want(number, view(model)))
            self.gates.ended("ns", result(f"run.s.{number}.1.1", calls(model, 1)))


def test_what_does_not_pass_says_which_limit_of_which_model_it_waits_for() -> None:
    table = Table().model(maxInFlight=2)
    assert len(table.admit(*(want(number) for number in range(5)))) == 2
    assert table.gates.held_back(RUN) == {
        "agent": (
            Reason.MODEL_LIMITED,
            "Model 'm' is at its limit of 2 attempts at once (spec.limits.maxInFlight)",
        )
    }
    table.gates.ended("ns", result("run.s.0.1.1"))
    assert table.woken == [RUN]


def test_agents_without_a_model_pass() -> None:
    assert Table().gates.admit(RUN, "ns", [Want("a", "tools")], 0) == {"a": None}


def test_what_was_let_in_and_does_not_start_leaves_its_place_to_who_waits() -> None:
    table = Table().model(maxInFlight=1)
    table.admit(want(0))
    assert table.admit(want(0, run="other"), run=OTHER) == {}
    table.gates.keep_only(RUN, {})
    assert table.woken == [OTHER]
    assert table.admit(want(0, run="other"), run=OTHER) == {"other.s.0.1.1": "m"}


def test_what_was_sent_and_lost_goes_on_counting_for_a_minute() -> None:
    table = Table().model(requestsPerMinute=1)
    table.admit(want(0))
    lost = Result("run.s.0.1.1", "w0", Consumption(), error=ErrorClass.WORKER_LOST)
    table.gates.ended("ns", lost)
    assert table.admit(want(1)) == {}
    assert table.passes == {60}
    table.now += 61
    table.gates.call(("ns", "m"))
    assert table.woken == [RUN]
    refused = Result("run.s.1.1.1", "w0", Consumption(), error=ErrorClass.NO_CAPACITY, calls=())
    assert len(table.admit(want(1))) == 1
    table.gates.ended("ns", refused)
    assert len(table.admit(want(2))) == 1, "nobody was asked"


def test_an_attempt_begins_with_the_first_model_that_is_meant_for_it_and_may_be_asked() -> None:
    table = Table().model().model("other").model("third")
    table.fail(0, 1)
    assert 0 in table.passes, "its status is to tell"
    limited, down = ErrorClass.RATE_LIMITED, ErrorClass.MODEL_UNAVAILABLE
    chain = (view("m"), view("other", limited), view("third", limited, down))
    assert table.admit(want(2, *chain)) == {"run.s.2.1.1": "third"}
    assert table.admit(want(3, *chain[:2])) == {}
    assert table.gates.held_back(RUN)["agent"][0] is Reason.CIRCUIT_OPEN
    table.now += 30
    two = table.admit(want(4, *chain), want(5, *chain))
    assert two == {"run.s.4.1.1": "m", "run.s.5.1.1": "third"}, "one probe, and no more"


def test_after_a_429_with_retry_after_nobody_asks_before_that_or_asks_another() -> None:
    table = Table().model().model("other")
    table.admit(want(0))
    table.gates.ended("ns", result("run.s.0.1.1", calls(failures=1, retry_after=20)))
    assert 0 in table.passes, "its status is to tell"
    assert table.admit(want(1)) == {}
    assert table.gates.held_back(RUN)["agent"][0] is Reason.MODEL_LIMITED
    other = view("other", ErrorClass.RATE_LIMITED)
    assert table.admit(want(2, view("m"), other)) == {"run.s.2.1.1": "other"}
    table.now += 20
    assert table.admit(want(3)) == {"run.s.3.1.1": "m"}


def test_who_waits_for_a_model_that_is_left_alone_hears_when_its_fallback_answers_again() -> None:
    table = Table().model().model("other")
    table.fail(0, 1, model="other")
    table.now += 15
    table.fail(2, 3)
    chain = (view("m"), view("other", ErrorClass.MODEL_UNAVAILABLE))
    assert table.admit(want(4, *chain)) == {}
    table.now += 15
    assert table.admit(want(1, view("other"), run="other"), run=OTHER)
    table.gates.ended("ns", result("other.s.1.1.1", calls("other")))
    table.woken.clear()
    table.gates.call(("ns", "other"))
    assert table.woken == [RUN]
    assert table.admit(want(4, *chain)) == {"run.s.4.1.1": "other"}


def test_what_an_attempt_moved_on_to_by_itself_counts_there() -> None:
    table = Table().model().model("other", requestsPerMinute=1)
    assert table.gates.may_follow(("ns", "m"))
    assert not table.gates.may_follow(("ns", "other"))
    table.admit(want(0))
    table.gates.ended("ns", result("run.s.0.1.1", calls(failures=1), calls("other")))
    assert table.admit(want(1, view("other"))) == {}


def test_an_attempt_that_turns_out_to_need_more_waits_until_that_is_free() -> None:
    table = Table().model(tokensPerMinute=100)
    table.admit(want(0), want(1))
    assert table.gates.weigh(RUN, "ns", "run.s.0.1.1", "m", Load(1, 1, 70), 0)
    assert not table.gates.weigh(RUN, "ns", "run.s.1.1.1", "m", Load(1, 1, 50), 0)
    assert table.admit(want(0), want(1), want(2)) == {"run.s.0.1.1": "m"}
    table.gates.ended("ns", result("run.s.0.1.1"))
    assert table.woken == [RUN]
    assert "run.s.1.1.1" in table.admit(want(1))


def test_an_attempt_whose_agent_has_no_budget_left_moves_to_the_other_models_gate() -> None:
    table = Table().model(maxInFlight=1).model("cheap", maxInFlight=1)
    table.admit(want(0))
    assert table.gates.weigh(RUN, "ns", "run.s.0.1.1", "cheap", ONE, 0)
    assert table.admit(want(1)) == {"run.s.1.1.1": "m"}
    assert not table.gates.weigh(RUN, "ns", "run.s.1.1.1", "cheap", ONE, 0)
    assert table.admit(want(1)) == {}, "it waits for the other"
    assert table.admit(want(1), want(2)) == {"run.s.2.1.1": "m"}
    table.gates.ended("ns", result("run.s.0.1.1", calls("cheap")))
    assert table.woken == [RUN]


def test_a_new_leader_knows_what_runs_takes_the_window_as_used_and_keeps_circuits_open() -> None:
    table = Table().model(requestsPerMinute=60).model("new", requestsPerMinute=60).model("down")
    table.gates.open(("ns", "m"), ModelStatus(circuit="Closed"), table.now)
    table.gates.open(("ns", "new"), ModelStatus(), table.now)
    later = ModelStatus(circuit="Open", retry_at="1970-01-01T00:16:50Z")
    table.gates.open(("ns", "down"), later, table.now)
    table.gates.resume(RUN, "run.s.9.1.1", ("ns", "m"), Load(1, 10))
    assert table.admit(want(0)) == {}
    assert table.admit(want(0, view("new"))) == {"run.s.0.1.1": "new"}
    assert table.admit(want(1, view("down"))) == {}
    table.now = 1010
    assert table.admit(want(1, view("down"))) == {"run.s.1.1.1": "down"}
    assert table.admit(want(2)) == {}
    table.now = 1012
    assert table.admit(want(2)) == {"run.s.2.1.1": "m"}


@pytest.mark.parametrize("failures", [0, 1])
def test_a_probe_that_ran_when_the_leader_changed_is_the_only_one(failures: int) -> None:
    table = Table().model()
    half_open = ModelStatus(circuit="HalfOpen", retry_at=None)
    table.gates.open(("ns", "m"), half_open, table.now)
    table.gates.resume(RUN, "run.s.9.1.1", ("ns", "m"), ONE)
    assert table.admit(want(0)) == {}
    table.gates.ended("ns", result("run.s.9.1.1", calls(failures=failures)))
    assert len(table.admit(want(0))) == 1 - failures


def test_runs_that_are_gone_wait_for_nothing_and_what_runs_of_them_counts() -> None:
    table = Table().model(maxInFlight=1)
    table.admit(want(0))
    table.admit(want(0, run="other"), run=OTHER)
    table.gates.forget(OTHER)
    table.gates.forget(RUN)
    assert table.admit(want(1, run="third"), run=("ns", "third")) == {}
    table.gates.ended("ns", result("run.s.0.1.1"))
    assert table.woken == [("ns", "third")]
