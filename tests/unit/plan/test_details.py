"""Details that show only where several things meet in one pass."""

from decimal import Decimal
from typing import Any

import pytest

from corral.api.workflow import StepPhase, WorkflowPhase
from corral.plan.facts import Memo
from corral.plan.observed import AgentView, ChildView, Grant, Rates
from tests.unit.plan.driver import Simulation, run, used

RATES = Rates(Decimal("0.001"), Decimal("0.001"), call_input_tokens=40, call_output_tokens=60)


TWO = """
parallelism: 1
steps:
- {name: a, agentRef: {name: x}}
- {name: b, agentRef: {name: y}}
"""


def test_what_an_agents_budget_holds_back_leaves_its_place_to_others() -> None:
    view = AgentView("x", "r1", 300.0, limits_cost=True, rates=RATES)
    sim = Simulation(TWO, agents=[view])
    sim.grant = lambda agent, *_: Grant.EXCEEDED if agent == "x" else Grant.GRANTED
    sim.to(5)
    assert (sim.phases, sim.starts) == ({"a": "Queued", "b": "Succeeded"}, [("b", 0)])
    assert sim.status.message == "the budget of Agent 'x' is spent for this period"


@pytest.mark.parametrize("bound", ["parallelism: 1", "parallelism: 5"])
def test_what_costs_nothing_goes_on_though_the_next_step_cannot_be_paid(bound: str) -> None:
    sim = Simulation(
        f"""
{bound}
budget: {{maxCostUSD: "0.05"}}
steps:
- {{name: a, agentRef: {{name: x}}}}
- {{name: b, tool: {{mcp: {{url: "http://t"}}, name: t}}}}
""",
        agents=[AgentView("x", "r1", 300.0, rates=RATES)],
    ).to(5)
    assert (sim.phases, sim.status.phase) == ({"a": "Queued", "b": "Succeeded"}, "Suspended")


def test_the_status_tells_of_an_agents_budget_only_while_it_holds_something_back() -> None:
    sim = Simulation(TWO, agents=[AgentView("x", "r1", 300.0, limits_cost=True, rates=RATES)])
    asked: list[str] = []

    def grant(agent: str, *_: Any) -> Grant:
        asked.append(agent)
        return Grant.EXCEEDED if asked == ["x"] else Grant.GRANTED

    sim.grant = grant
    sim.tick()  # b took the only place, so that nobody was asked for a again
    assert (asked, sim.status.message) == (["x", "y"], None)


@pytest.mark.parametrize(
    "step",
    [
        "transform: $(attempt)",
        "workflow: {templateRef: {name: t}, arguments: {n: $(attempt)}}",
        "approval: {prompt: $(attempt), approvers: [{kind: User, name: u}]}",
    ],
)
def test_attempts_count_from_one_where_there_is_but_one(step: str) -> None:
    sim = Simulation(f"steps: [{{name: a, {step}}}]").to(0)
    seen = [sim.row("a").output, *(c.arguments["n"] for c in sim.called.values())]
    seen += [int(asked.prompt) for asked in sim.asked.values()]
    assert 1 in seen


def test_a_memo_key_sees_the_first_attempt() -> None:
    memos: dict[str, Memo] = {}
    text = "steps: [{name: a, agentRef: {name: x}, memoize: {key: '$([7][attempt - 1])'}}]"
    assert run(text, memos=memos).phases == {"a": "Succeeded"}
    assert len(memos) == 1


def able(name: str, revision: str = "r1", ready: bool = True) -> AgentView:
    return AgentView(name, revision, 300.0, ready=ready, capabilities=frozenset({"c"}))


SELECTED = """
steps: [{name: a, agentSelector: {matchCapabilities: [c]}, memoize: {key: k}}]
"""


def test_a_result_is_kept_for_the_agent_that_did_it_not_for_who_was_chosen_before() -> None:
    memos: dict[str, Memo] = {}
    sim = Simulation(SELECTED, agents=[able("x"), able("y")], slots={"x": 0, "y": 1}, memos=memos)
    sim.to(1)
    del sim.agents["x"]
    sim.tick()
    sim.end()
    assert [s.payload.worker.pod for s in sim.started] == ["y-0"]
    assert run(SELECTED, agents=[able("y")], memos=memos).started == []
    assert len(run(SELECTED, agents=[able("x")], memos=memos).started) == 1


def test_no_result_is_looked_up_before_the_agents_revision_is_known() -> None:
    memos: dict[str, Memo] = {}
    text = """
steps:
- {name: w, wait: {duration: 10s}}
- {name: a, dependsOn: [w], agentRef: {name: x}, memoize: {key: k}}
"""
    run(text, memos=memos)
    sim = Simulation(text, memos=memos).to(5)
    view = sim.agents.pop("x")
    assert sim.to(20).row("a").phase is StepPhase.QUEUED
    sim.agents["x"] = view
    sim.tick()
    assert (sim.row("a").memoized, sim.started) == (True, [])


def test_children_of_a_wide_fan_out_keep_less_in_the_journal() -> None:
    items = list(range(1000))
    sim = Simulation(f"""
steps: [{{name: f, workflow: {{templateRef: {{name: t}}}}, forEach: {{items: {items}}}}}]
""").to(1)
    sim.child_ends("f[0]", output="w" * 500)
    first = sim.run_state.steps["f"].nodes[0]
    assert (first.phase, first.output) == (StepPhase.SUCCEEDED, None)
    assert first.stored is not None


def test_what_a_child_cost_is_seen_by_the_conditions_after_it() -> None:
    sim = Simulation("""
steps:
- name: c
  workflow: {templateRef: {name: t}}
  forEach: {items: [1, 2]}
  loop: {until: workflow.costUSD == '0.5', maxIterations: 2}
""").to(1)
    first = next(name for name, child in sim.called.items() if child.step == "c[0]")
    sim.children[first] = ChildView(WorkflowPhase.SUCCEEDED, True, used("0.25"))
    sim.child_ends("c[1]", used=used("0.25"))
    iterations = [node.iteration for node in sim.run_state.steps["c"].nodes]
    phases = [node.phase for node in sim.run_state.steps["c"].nodes]
    assert (iterations, phases) == ([2, 1], [StepPhase.RUNNING, StepPhase.SUCCEEDED])
