"""Trigger rules."""

import pytest

from corral.api.workflow import StepPhase, TriggerRule
from corral.plan.triggers import Trigger, evaluate
from tests.unit.plan.driver import fails, ok, run

P = StepPhase
OPEN, GOOD, BAD, SKIP, OMIT, GONE = (
    P.RUNNING,
    P.SUCCEEDED,
    P.FAILED,
    P.SKIPPED,
    P.OMITTED,
    P.CANCELLED,
)
YES, LATER, NO = Trigger.HOLDS, Trigger.MAY_HOLD, Trigger.CANNOT_HOLD


@pytest.mark.parametrize(
    ("phases", "all_succeeded", "all_done", "any_failed", "any_succeeded"),
    [
        pytest.param([], YES, YES, NO, NO, id="no dependencies"),
        pytest.param([OPEN], LATER, LATER, LATER, LATER, id="one open"),
        pytest.param([GOOD], YES, YES, NO, YES, id="one succeeded"),
        pytest.param([BAD], NO, YES, YES, NO, id="one failed"),
        pytest.param([SKIP], YES, YES, NO, NO, id="one skipped"),
        pytest.param([OMIT], NO, YES, NO, NO, id="one omitted"),
        pytest.param([GONE], NO, YES, NO, NO, id="one cancelled"),
        pytest.param([GOOD, OPEN], LATER, LATER, LATER, YES, id="one succeeded, one open"),
        pytest.param([BAD, OPEN], NO, LATER, YES, LATER, id="one failed, one open"),
        pytest.param([OMIT, OPEN], NO, LATER, LATER, LATER, id="one omitted, one open"),
        pytest.param([GOOD, BAD], NO, YES, YES, YES, id="one of each"),
        pytest.param([GOOD, SKIP], YES, YES, NO, YES, id="one succeeded, one skipped"),
        pytest.param([SKIP, OMIT], NO, YES, NO, NO, id="one skipped, one omitted"),
    ],
)
def test_the_truth_table(
    phases: list[StepPhase],
    all_succeeded: Trigger,
    all_done: Trigger,
    any_failed: Trigger,
    any_succeeded: Trigger,
) -> None:
    dependencies = [(phase, False) for phase in phases]
    found = [evaluate(rule, dependencies) for rule in TriggerRule]
    assert found == [all_succeeded, all_done, any_failed, any_succeeded]


def test_an_allowed_failure_is_done_and_failed() -> None:
    found = [evaluate(rule, [(BAD, True)]) for rule in TriggerRule]
    assert found == [YES, YES, YES, NO]


SPEC = """
failFast: {fail_fast}
steps:
- {{name: a, agentRef: {{name: x}}{allow}}}
- {{name: b, agentRef: {{name: x}}}}
- {{name: t, dependsOn: [a, b], triggerRule: {rule}, agentRef: {{name: x}}}}
- {{name: u, dependsOn: [t], agentRef: {{name: x}}}}
"""


@pytest.mark.parametrize(
    ("rule", "allow", "fail_fast", "started", "phases"),
    [
        pytest.param("AllSucceeded", 0, 0, None, "FSOO", id="AllSucceeded is omitted"),
        pytest.param("AllSucceeded", 1, 1, 5, "FSSS", id="AllSucceeded goes on where allowed"),
        pytest.param("AllDone", 0, 0, 5, "FSSS", id="AllDone starts after both"),
        pytest.param("AllDone", 0, 1, 5, "FSSO", id="AllDone starts despite failFast"),
        pytest.param("AnyFailed", 0, 0, 1, "FSSS", id="AnyFailed starts at the failure"),
        pytest.param("AnyFailed", 0, 1, 1, "FSSO", id="AnyFailed starts despite failFast"),
        pytest.param("AnyFailed", 1, 1, 1, "FSSS", id="AnyFailed counts an allowed failure"),
        pytest.param("AnySucceeded", 0, 0, 5, "FSSS", id="AnySucceeded starts at the success"),
        pytest.param("AnySucceeded", 0, 1, None, "FSOO", id="AnySucceeded obeys failFast"),
    ],
)
def test_after_one_failure_and_one_success(
    rule: str, allow: int, fail_fast: int, started: float | None, phases: str
) -> None:
    spec = SPEC.format(
        rule=rule,
        allow=", allowFailure: true" if allow else "",
        fail_fast=str(bool(fail_fast)).lower(),
    )
    sim = run(spec, {"a": fails(takes=1), "b": ok(takes=5)})
    assert dict(sim.starts).get("t") == started
    assert "".join(phase[0] for phase in sim.phases.values()) == phases
    assert sim.status.phase == ("Succeeded" if allow else "Failed")


def test_a_failure_handler_that_is_not_needed_is_omitted_and_the_run_succeeds() -> None:
    sim = run("""
steps:
- {name: a, agentRef: {name: x}}
- {name: alarm, dependsOn: [a], triggerRule: AnyFailed, agentRef: {name: x}}
""")
    assert (sim.phases["alarm"], sim.status.phase) == ("Omitted", "Succeeded")
    assert sim.row("alarm").message == (
        "its trigger rule AnyFailed can't hold any more: a Succeeded"
    )


def test_a_failure_handler_is_told_what_failed() -> None:
    sim = run(
        """
steps:
- {name: a, agentRef: {name: x}}
- name: alarm
  dependsOn: [a]
  triggerRule: AnyFailed
  agentRef: {name: x}
  input: $(workflow.message) / $(workflow.failedSteps) / $(workflow.phase)
""",
        {"a": fails("ToolFailed", "the tool is blunt")},
    )
    assert sim.input_of("alarm") == (
        'step a failed: ToolFailed: the tool is blunt / ["a"] / Running'
    )
    assert sim.status.message == "step a failed: ToolFailed: the tool is blunt"
