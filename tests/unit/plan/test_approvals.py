"""Steps that wait for a person."""

from typing import Any

import pytest

from corral.plan.observed import ApprovalView
from tests.unit.plan.driver import HANGS, Simulation, ok, run

REVIEW = "prompt: 'Publish $(arguments.what)?', approvers: [{kind: Group, name: editors}]"


def review(extra: str = "", step: str = "", head: str = "") -> str:
    return f"""
arguments: {{what: tea}}
{head}
steps:
- {{name: r, {step + ", " if step else ""}approval: {{{REVIEW}{", " + extra if extra else ""}}}}}
- {{name: d, dependsOn: [r], agentRef: {{name: x}}}}
"""


def waiting(extra: str = "", step: str = "", head: str = "", **options: Any) -> Simulation:
    """A run whose approval has been asked for."""
    return Simulation(review(extra, step, head), **options).to(0)


def test_a_person_is_asked_with_the_rendered_prompt() -> None:
    sim = waiting("timeout: 1h, allowEdit: [title], allowSelfApproval: true")
    (asked,) = sim.asked.values()
    assert (asked.step, asked.prompt, asked.tool) == ("r", "Publish tea?", None)
    assert asked.approvers == ({"kind": "Group", "name": "editors"},)
    assert (asked.allow_self_approval, asked.allow_edit) == (True, ("title",))
    assert asked.expires_at == 1_800_003_600.0
    row = sim.row("r")
    assert (row.phase, row.approval) == ("Waiting", asked.name)
    assert asked.name.startswith("report-")
    assert sim.condition("Reconciling").reason == "ApprovalPending"
    assert sim.status.message == "r: waits for a person's approval"


def test_an_approval_is_its_output() -> None:
    sim = waiting()
    sim.decide("r", "Approve", by="bo", comment="fine", values={"title": "Tea"})
    assert sim.row("r").output == {
        "decision": "Approve",
        "by": "bo",
        "comment": "fine",
        "values": {"title": "Tea"},
    }
    assert sim.end().phases == {"r": "Succeeded", "d": "Succeeded"}
    assert sim.row("r").cost_usd is None


@pytest.mark.parametrize(
    ("extra", "phases", "run_phase"),
    [
        ("", {"r": "Failed", "d": "Omitted"}, "Failed"),
        ("onReject: Fail", {"r": "Failed", "d": "Omitted"}, "Failed"),
        ("onReject: Skip", {"r": "Skipped", "d": "Omitted"}, "Succeeded"),
        ("onReject: Skip, onSkip: Omit", {"r": "Skipped", "d": "Omitted"}, "Succeeded"),
        ("onReject: Skip, onSkip: Proceed", {"r": "Skipped", "d": "Succeeded"}, "Succeeded"),
    ],
)
def test_what_a_rejection_means(extra: str, phases: dict[str, str], run_phase: str) -> None:
    sim = waiting(extra)
    sim.decide("r", "Reject", by="bo", comment="too long")
    sim.end()
    assert (sim.phases, sim.status.phase) == (phases, run_phase)
    assert (sim.row("r").reason, sim.row("r").message) == ("Rejected", "rejected by bo: too long")
    assert sim.row("r").output is None


@pytest.mark.parametrize(
    ("on_skip", "phase"),
    [("", "Omitted"), ("onSkip: Omit", "Omitted"), ("onSkip: Proceed", "Succeeded")],
)
def test_an_approval_that_its_condition_skips_is_no_approval(on_skip: str, phase: str) -> None:
    sim = waiting(on_skip, "when: 'false'").end()
    assert sim.phases == {"r": "Skipped", "d": phase}
    assert sim.asked == {}


@pytest.mark.parametrize(
    ("action", "phase", "reason", "message"),
    [
        ("", "Failed", "Rejected", "rejected: no decision within 1h"),
        ("onTimeout: Reject", "Failed", "Rejected", "rejected: no decision within 1h"),
        (
            "onTimeout: Reject, onReject: Skip",
            "Skipped",
            "Rejected",
            "rejected: no decision within 1h",
        ),
        ("onTimeout: Approve", "Succeeded", None, None),
        ("onTimeout: Fail", "Failed", "Timeout", "no decision within 1h"),
    ],
)
def test_what_no_decision_in_time_means(
    action: str, phase: str, reason: str | None, message: str | None
) -> None:
    sim = run(review("timeout: 1h" + (f", {action}" if action else "")))
    row = sim.row("r")
    assert (row.phase, row.reason, row.message) == (phase, reason, message)
    assert row.finished_at == "2027-01-15T09:00:00.000Z"
    if phase == "Succeeded":
        assert row.output["decision"] == "Approve"
        assert (row.output["by"], row.output["comment"]) == ("", "no decision within 1h")


@pytest.mark.parametrize("at", [3599.0, 3600.0])
def test_a_decision_counts_until_its_time_is_over(at: float) -> None:
    sim = waiting("timeout: 1h")
    sim.now = at
    sim.decide("r")
    assert sim.phases["r"] == "Succeeded"


def test_without_a_timeout_it_waits_for_ever() -> None:
    sim = waiting().to(1e6)
    assert (sim.phases["r"], sim.wake) == ("Waiting", [])
    assert next(iter(sim.asked.values())).expires_at is None


def test_a_decision_during_a_suspension_ends_the_step_and_its_dependents_wait() -> None:
    sim = waiting().at(1, suspend=True).at(60, suspend=False).to(10)
    sim.decide("r")
    assert sim.phases == {"r": "Succeeded", "d": "Pending"}
    assert sim.end().starts == [("d", 60)]


def test_nobody_is_asked_while_suspended() -> None:
    sim = waiting(head="suspend: true").to(10)
    assert sim.asked == {}


def test_the_active_deadline_stands_still_while_people_are_awaited() -> None:
    sim = waiting(head="activeDeadline: 30s", answers={"d": ok(takes=29)})
    sim.to(100_000).decide("r")
    assert sim.end().status.phase == "Succeeded"


def test_the_active_deadline_runs_while_something_else_is_at_work() -> None:
    text = review(head="activeDeadline: 30s") + "- {name: e, agentRef: {name: x}}"
    sim = Simulation(text, {"e": ok(takes=20)}).to(1000)
    sim.decide("r")
    assert sim.phases["d"] == "Running"
    sim = Simulation(text, {"e": HANGS}).to(30)
    assert sim.phases == {"r": "Cancelled", "d": "Omitted", "e": "Cancelled"}
    assert sim.condition("Succeeded").reason == "DeadlineExceeded"


@pytest.mark.parametrize(
    ("head", "step", "phases"),
    [
        ("deadline: 1m", "", {"r": "Cancelled", "d": "Omitted"}),
        ("", "deadline: 1m", {"r": "Failed", "d": "Omitted"}),
    ],
)
def test_a_deadline_by_the_clock_goes_on(head: str, step: str, phases: dict[str, str]) -> None:
    sim = waiting(head=head, step=step).end()
    assert (sim.now, sim.phases, sim.status.phase) == (60, phases, "Failed")


def test_a_stop_ends_the_waiting() -> None:
    sim = waiting().at(5, shutdown="Stop").to(5)
    assert sim.phases == {"r": "Cancelled", "d": "Omitted"}
    assert sim.status.phase == "Stopped"
    assert sim.row("r").approval is not None
    sim.approvals[sim.row("r").approval or ""] = ApprovalView("Approve", "bo")
    sim.tick()
    assert sim.phases["r"] == "Cancelled"


def test_a_request_that_is_gone_is_wanted_again_under_its_name() -> None:
    sim = waiting("timeout: 1h")
    before = dict(sim.asked)
    sim.approvals.clear()
    sim.asked.clear()
    sim.to(60)
    assert sim.asked == before
    sim.decide("r")
    assert sim.phases["r"] == "Succeeded"


def test_a_request_is_not_wanted_again_once_it_is_there() -> None:
    sim = waiting()
    sim.asked.clear()
    assert sim.to(60).asked == {}


def test_a_prompt_that_cannot_be_rendered_fails_the_step_before_anyone_is_asked() -> None:
    text = review().replace("$(arguments.what)", "$(arguments.what.n)")
    sim = run(text)
    row = sim.row("r")
    assert (row.phase, row.reason) == ("Failed", "InvalidExpression")
    assert "arguments.what.n" in (row.message or "")
    assert sim.asked == {}


def test_a_prompt_shows_a_large_output() -> None:
    sim = Simulation(
        """
steps:
- {name: a, agentRef: {name: x}}
- name: r
  dependsOn: [a]
  approval: {prompt: "Publish? $(steps.a.output)", approvers: [{kind: User, name: ann}]}
""",
        {"a": ok("y" * 20_000)},
    ).to(1)
    (asked,) = sim.asked.values()
    assert asked.prompt == ("Publish? " + "y" * 20_000)[:16384]


def test_nested_in_a_fan_out_each_item_is_asked_for() -> None:
    sim = Simulation("""
steps:
- name: o
  forEach: {items: [a, b, c], tolerateFailures: 1}
  steps:
  - {name: r, approval: {prompt: "Send $(item)?", approvers: [{kind: User, name: ann}]}}
  - {name: s, dependsOn: [r], agentRef: {name: x}, input: "$(item) $(steps.r.output.by)"}
""").to(0)
    assert [(one.step, one.prompt) for one in sim.asked.values()] == [
        (f"o[{index}].r", f"Send {item}?") for index, item in enumerate("abc")
    ]
    assert len({one.name for one in sim.asked.values()}) == 3
    assert sim.status.message == "o[0].r and 2 more: waits for a person's approval"
    sim.decide("o[1].r")
    sim.decide("o[0].r", "Reject")
    sim.decide("o[2].r", by="bo")
    sim.end()
    assert [s.payload.input for s in sim.started] == ["b ann", "c bo"]
    assert sim.phases == {"o": "Succeeded"}
    assert sim.has_condition("Degraded")


def test_max_concurrent_bounds_how_many_are_asked_at_once() -> None:
    sim = Simulation("""
steps:
- name: o
  forEach: {items: [a, b], maxConcurrent: 1}
  steps: [{name: r, approval: {prompt: "$(item)?", approvers: [{kind: User, name: ann}]}}]
""").to(0)
    assert len(sim.asked) == 1
    sim.decide("o[0].r")
    assert [one.prompt for one in sim.asked.values()] == ["a?", "b?"]


def test_each_iteration_of_what_is_around_asks_anew() -> None:
    sim = Simulation("""
steps:
- name: o
  loop: {until: output == 'Approve', maxIterations: 3}
  steps:
  - name: r
    approval: {prompt: "$(iteration)?", approvers: [{kind: User, name: ann}], onReject: Skip}
  output: $(steps.r.?output.?decision.orValue('no'))
""").to(0)
    sim.decide("o.r", "Reject")
    sim.decide("o.r", "Approve")
    assert [one.prompt for one in sim.asked.values()] == ["1?", "2?"]
    assert (sim.row("o").phase, sim.row("o").iteration) == ("Succeeded", 2)


def test_fail_fast_leaves_an_open_question_open() -> None:
    text = review() + "- {name: bad, agentRef: {name: x}, deadline: 5s}"
    sim = Simulation(text, {"bad": HANGS}).to(10)
    assert sim.phases == {"r": "Waiting", "d": "Omitted", "bad": "Failed"}
    sim.decide("r")
    assert sim.status.phase == "Failed"
