"""Results that come late: recorded while they can be, billed once, never for another attempt."""

from collections.abc import Mapping, Sequence

from corral.api.errors import ErrorClass
from corral.api.workflow import RetryStrategy, Step, StepPhase, WorkflowPhase, WorkflowSpec
from corral.plan.attempts import BACKSTOP
from corral.plan.observed import AgentView, Pass, Result, Slot, Want
from corral.plan.state import Consumption, Run, Worker
from corral.plan.workflow import plan

OLD = Worker(pod="old", uid="old-uid", url="http://old")
NEW = Worker(pod="new", uid="new-uid", url="http://new")
TIMEOUT = 60.0
SPEC = WorkflowSpec(
    steps=[
        Step.model_validate(
            {
                "name": "ask",
                "agentRef": {"name": "a"},
                "input": "go",
                "retryStrategy": RetryStrategy(limit=1).model_dump(by_alias=True, mode="json"),
            }
        )
    ]
)


def advance(
    run: Run, now: float, worker: Worker, *results: Result, patience_until: float = 0.0
) -> None:
    def claim(wants: Sequence[Want]) -> Mapping[str, Slot]:
        return {want.attempt_id: Slot(worker, "r") for want in wants}

    agents = {"a": AgentView("a", "r", TIMEOUT)}
    p = Pass("w", "ns", SPEC, run, agents, now, list(results), patience_until=patience_until)
    plan(p, claim)


def result(number: int, worker: Worker, output: str) -> Result:
    return Result(f"u.ask.0.1.{number}", worker.uid, Consumption(requests=1), output)


def started() -> Run:
    run = Run(run_id="u")
    advance(run, 1000.0, OLD)
    assert run.steps["ask"].phase is StepPhase.RUNNING
    return run


def test_an_operator_that_was_away_for_long_takes_what_its_workers_kept_for_it() -> None:
    run = started()
    back = 1000.0 + 10 * TIMEOUT
    advance(run, back, NEW, patience_until=back + 30)
    assert run.steps["ask"].phase is StepPhase.RUNNING
    assert run.unsettled == {}
    advance(run, back + 5, NEW, result(1, OLD, "kept"), patience_until=back + 30)
    assert run.phase is WorkflowPhase.SUCCEEDED
    assert run.steps["ask"].nodes[0].output == "kept"


def test_a_result_after_the_backstop_is_billed_once_and_changes_nothing_else() -> None:
    run = started()
    late = 1000.0 + TIMEOUT + BACKSTOP + 1
    advance(run, late, NEW)
    node = run.steps["ask"].nodes[0]
    assert list(run.unsettled) == ["u.ask.0.1.1"]
    assert node.reason == ErrorClass.TIMEOUT
    advance(run, (node.not_before or late) + 1, NEW)
    node = run.steps["ask"].nodes[0]
    assert (node.attempt, node.worker) == (2, NEW)
    for _ in range(2):  # told twice: by its own call and by its cancellation
        advance(run, late + 20, NEW, result(1, OLD, "too late"))
        assert (node.attempt, node.output, run.late.requests) == (2, None, 1)
    assert run.unsettled == {}
    advance(run, late + 21, NEW, result(2, OLD, "forged"), result(2, NEW, "right"))
    assert node.output == "right"
    assert run.used().requests == 2
    advance(run, late + 22, NEW, result(2, NEW, "again"), result(1, OLD, "again"))
    assert (node.output, run.used().requests) == ("right", 2)
