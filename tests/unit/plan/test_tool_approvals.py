"""Tool calls of an attempt that people have to approve before it goes on."""

from dataclasses import replace
from typing import Any

import pytest

from corral.api.attempt import InputRequired, PendingCall, ToolDecision
from corral.plan.observed import AgentView, ApprovalView
from tests.unit.plan.driver import HANGS, Answer, Script, Simulation, fails, ok, used

ANN, OPS = {"kind": "User", "name": "ann"}, {"kind": "Group", "name": "ops"}
X = AgentView("x", "r1", 300.0, approvers={"delete": (ANN, OPS), "": (OPS,)})


def asks(*calls: tuple[str, str], said: str = "so far", takes: float = 1.0) -> Answer:
    """An attempt that ends because these calls (tool, arguments) have to be approved."""
    pending = [
        PendingCall(call_id=f"c{number}", tool=tool, arguments=arguments)
        for number, (tool, arguments) in enumerate(calls, start=1)
    ]
    required = InputRequired(conversation=said, calls=pending)
    return Answer(takes=takes, used=used("0.01"), asks=required)


DELETE = asks(("delete", '{"id":1}'))


def asking(
    script: Script | None = None,
    extra: str = "",
    head: str = "",
    agent: AgentView = X,
    **options: Any,
) -> Simulation:
    """A run whose first attempt has asked, unless the script says otherwise."""
    text = f"""
{head}
steps:
- {{name: a, agentRef: {{name: x}}{", " + extra if extra else ""}}}
- {{name: b, dependsOn: [a], transform: $(steps.a.phase)}}
"""
    answers = {"a#1": DELETE} if script is None else script
    return Simulation(text, answers, agents=[agent], **options).to(1)


def test_a_call_that_has_to_be_approved_is_asked_for_and_the_worker_is_free() -> None:
    sim = asking()
    (asked,) = sim.asked.values()
    assert (asked.step, asked.tool) == ("a", ("delete", '{"id":1}'))
    assert asked.prompt == "Agent x asks to call the tool delete."
    assert asked.approvers == (ANN, OPS)
    assert (asked.allow_self_approval, asked.expires_at) == (False, None)
    row = sim.row("a")
    assert (row.phase, row.reason) == ("Waiting", "ApprovalPending")
    assert row.message == "waits for the approval of delete"
    assert (row.approval, row.attempts, row.cost_usd) == (asked.name, 1, "0.01")
    assert sim.run_state.steps["a"].nodes[0].worker is None
    assert sim.condition("Reconciling").reason == "ApprovalPending"
    assert sim.status.message == "a: waits for a person's approval"


@pytest.mark.parametrize(
    ("agent", "approvers", "by_oneself"),
    [
        pytest.param(X, (OPS,), False, id="of all tools"),
        pytest.param(replace(X, approvers={"send": (ANN,)}), (ANN,), False, id="of this tool"),
        pytest.param(replace(X, approvers={}), (), False, id="of none"),
        pytest.param(replace(X, self_approval=frozenset({"send"})), (OPS,), True, id="by oneself"),
    ],
)
def test_the_agent_says_who_may_approve(agent: AgentView, approvers: Any, by_oneself: bool) -> None:
    sim = asking({"a#1": asks(("send", "{}"))}, agent=agent)
    (asked,) = sim.asked.values()
    assert (asked.approvers, asked.allow_self_approval) == (approvers, by_oneself)


@pytest.mark.parametrize(
    ("verdict", "comment", "approved"), [("Approve", "go", True), ("Reject", "never", False)]
)
def test_the_next_attempt_goes_on_from_there_with_what_was_decided(
    verdict: str, comment: str, approved: bool
) -> None:
    sim = asking()
    sim.decide("a", verdict, comment=comment)
    sim.end()
    first, second = (s.payload for s in sim.started)
    assert (first.conversation, first.decisions) == (None, ())
    assert second.attempt_id == "run-1.a.0.1.2"
    assert second.conversation == "so far"
    assert second.decisions == (ToolDecision(call_id="c1", approved=approved, comment=comment),)
    row = sim.row("a")
    assert (row.phase, row.attempts, row.cost_usd) == ("Succeeded", 2, "0.02")
    assert (row.reason, row.message) == (None, None)


def test_going_on_is_no_retry() -> None:
    sim = asking({"a#1": DELETE, "a#2": fails(), "a#3": ok()}, "retryStrategy: {limit: 0}")
    node = sim.run_state.steps["a"].nodes[0]
    assert (node.retries, node.losses, node.errors) == (0, 0, [])
    sim.decide("a")
    assert sim.end().phases["a"] == "Failed"
    sim = asking({"a#1": DELETE, "a#2": fails(), "a#3": ok()}, "retryStrategy: {limit: 1}")
    sim.decide("a")
    assert sim.end().phases["a"] == "Succeeded"


def test_it_waits_until_all_calls_are_decided() -> None:
    sim = asking({"a#1": asks(("delete", "{}"), ("send", "{}"))})
    assert sim.row("a").message == "waits for the approval of delete, send"
    sim.decide("a", "Reject")
    assert sim.phases["a"] == "Waiting"
    sim.decide("a", "Approve")
    assert sim.phases["a"] == "Running"
    assert [(d.call_id, d.approved) for d in sim.started[-1].payload.decisions] == [
        ("c1", False),
        ("c2", True),
    ]


@pytest.mark.parametrize("error", ["WorkerLost", "NoCapacity", "RateLimited"])
def test_a_lost_attempt_goes_on_from_there_again_and_asks_nobody(error: str) -> None:
    sim = asking({"a#1": DELETE, "a#2": fails(error), "a#3": ok("deleted")})
    sim.decide("a", comment="go")
    sim.end()
    second, third = (s.payload for s in sim.started[1:])
    assert (second.conversation, second.decisions) == (third.conversation, third.decisions)
    assert third.decisions == (ToolDecision(call_id="c1", approved=True, comment="go"),)
    assert (len(sim.asked), sim.row("a").output) == (1, "deleted")
    assert sim.row("a").cost_usd == "0.03"


def test_an_attempt_that_is_lost_before_it_asked_begins_anew() -> None:
    sim = asking({"a#1": fails("WorkerLost"), "a#2": DELETE}).to(2)
    sim.decide("a")
    sim.end()
    assert [s.payload.conversation for s in sim.started] == [None, None, "so far"]


@pytest.mark.parametrize("verdict", ["Approve", "Reject"])
def test_what_begins_anew_and_asks_the_same_has_its_answer_already(verdict: str) -> None:
    sim = asking(
        {"a#1": DELETE, "a#2": fails("InvalidOutput"), "a#3": DELETE, "a#4": ok()},
        "retryStrategy: {limit: 1, backoff: {duration: 1s}}",
    )
    sim.decide("a", verdict)
    sim.end()
    assert [s.payload.conversation for s in sim.started] == [None, "so far", None, "so far"]
    assert [bool(s.payload.decisions) for s in sim.started] == [False, True, False, True]
    assert sim.started[3].payload.decisions[0].approved == (verdict == "Approve")
    assert len(sim.asked) == 1


@pytest.mark.parametrize(
    ("again", "count"),
    [
        pytest.param(("delete", '{"id":1}'), 2, id="the very same"),
        pytest.param(("delete", '{"id":2}'), 2, id="other arguments"),
        pytest.param(("send", '{"id":1}'), 2, id="another tool"),
    ],
)
def test_each_further_call_is_asked_for_by_itself(again: tuple[str, str], count: int) -> None:
    sim = asking({"a#1": DELETE, "a#2": asks(again, said="further"), "a#3": ok()})
    sim.decide("a")
    sim.to(2)
    assert (sim.phases["a"], len(sim.asked)) == ("Waiting", count)
    sim.decide("a", "Reject")
    sim.end()
    last = sim.started[-1].payload
    assert (last.conversation, [d.approved for d in last.decisions]) == ("further", [False])


def test_the_same_call_twice_at_once_is_asked_for_twice() -> None:
    sim = asking({"a#1": asks(("delete", "{}"), ("delete", "{}"))})
    assert len(sim.asked) == 2


def test_items_and_iterations_ask_for_themselves() -> None:
    sim = Simulation(
        """
steps:
- name: f
  agentRef: {name: x}
  forEach: {items: [1, 2]}
  loop: {until: iteration == 2, maxIterations: 2}
""",
        {"f#1": DELETE},
        agents=[X],
    )
    for expected in (2, 4):
        sim.to(sim.now + 1)
        assert len(sim.asked) == expected
        sim.decide("f[0]")
        sim.decide("f[1]")
        sim.to(sim.now + 1)
    assert sim.phases == {"f": "Succeeded"}
    assert sim.row("f").cost_usd == "0.08"


def test_a_large_conversation_is_stored_and_sent_whole() -> None:
    said = "blah " * 2000
    sim = asking({"a#1": asks(("delete", "{}"), said=said)})
    node = sim.run_state.steps["a"].nodes[0]
    assert node.conversation is not None
    assert (node.conversation.value, node.conversation.stored is None) == (None, False)
    sim.decide("a")
    assert sim.started[-1].payload.conversation == said
    assert sim.end().run_state.steps["a"].nodes[0].conversation is None


def test_who_names_no_call_has_failed() -> None:
    sim = asking({"a": asks()})
    assert (sim.phases["a"], sim.row("a").reason) == ("Failed", "Internal")
    assert "names no tool call" in (sim.row("a").message or "")


@pytest.mark.parametrize("how", ["Stop", "Terminate"])
def test_a_stop_ends_the_waiting(how: str) -> None:
    sim = asking().at(5, shutdown=how).to(5)
    assert sim.phases == {"a": "Cancelled", "b": "Omitted"}
    assert sim.status.phase == "Stopped"
    sim.approvals = dict.fromkeys(sim.approvals, ApprovalView("Approve", "ann"))
    sim.tick()
    assert len(sim.started) == 1


@pytest.mark.parametrize(
    ("extra", "head", "phase"),
    [("deadline: 30s", "", "Failed"), ("", "deadline: 30s", "Cancelled")],
)
def test_a_deadline_passes_meanwhile(extra: str, head: str, phase: str) -> None:
    sim = asking(extra=extra, head=head).end()
    assert (sim.now, sim.phases["a"], sim.status.phase) == (30, phase, "Failed")
    assert "deadline of 30s passed" in (sim.status.message or "")


def test_the_timeout_of_an_attempt_and_the_active_deadline_do_not() -> None:
    sim = asking({"a#1": DELETE, "a#2": ok(takes=27)}, "timeout: 28s", "activeDeadline: 30s")
    sim.to(100_000).decide("a")
    assert sim.started[-1].payload.timeout == 28.0
    assert sim.end().phases["a"] == "Succeeded"
    sim = asking({"a#1": DELETE, "a#2": HANGS}, head="activeDeadline: 30s").to(100)
    sim.decide("a")
    assert sim.end().now == 129


def test_a_decision_during_a_suspension_lets_it_go_on_afterwards() -> None:
    sim = asking().at(2, suspend=True).at(60, suspend=False).to(10)
    sim.decide("a")
    assert (sim.phases["a"], len(sim.started)) == ("Queued", 1)
    sim.end()
    assert (sim.starts[-1], sim.started[-1].payload.conversation) == (("a", 60), "so far")


def test_a_request_that_is_gone_is_wanted_again_under_its_name() -> None:
    sim = asking()
    before = dict(sim.asked)
    sim.approvals.clear()
    sim.asked.clear()
    assert sim.to(9).asked == before


def test_after_a_failure_elsewhere_what_was_asked_for_still_goes_on() -> None:
    text = """
steps:
- {name: a, agentRef: {name: x}}
- {name: bad, agentRef: {name: y}}
"""
    sim = Simulation(text, {"a#1": DELETE, "bad": fails(takes=3)}, agents=[X]).to(5)
    assert sim.phases == {"a": "Waiting", "bad": "Failed"}
    sim.decide("a")
    assert sim.end().phases == {"a": "Succeeded", "bad": "Failed"}


def test_while_it_waits_it_keeps_its_place_among_the_items_but_no_slot() -> None:
    text = """
steps: [{name: f, agentRef: {name: x}, forEach: {items: [1, 2], maxConcurrent: 1}},
  {name: z, agentRef: {name: x}}]
"""
    sim = Simulation(text, {"f[0]#1": DELETE, "z": ok(takes=2)}, agents=[X], slots=1).to(10)
    assert sim.starts == [("f[0]", 0), ("z", 1)]
    sim.decide("f[0]")
    assert sim.end().starts[2:] == [("f[0]", 10), ("f[1]", 11)]


def test_nested_steps_ask_by_the_name_of_their_item() -> None:
    text = """
steps:
- name: o
  forEach: {items: [1, 2]}
  steps: [{name: i, agentRef: {name: x}}]
"""
    sim = Simulation(text, {"i#1": DELETE}, agents=[X]).to(1)
    assert [one.step for one in sim.asked.values()] == ["o[0].i", "o[1].i"]
    sim.decide("o[1].i")
    assert sim.started[-1].payload.attempt_id == "run-1.o~1~1~i.0.1.2"
