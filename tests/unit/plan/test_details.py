"""Details that show only where several things meet in one pass."""

from decimal import Decimal
from typing import Any

import pytest

from corral.api.workflow import StepPhase
from corral.plan.facts import Memo
from corral.plan.observed import AgentView, Grant, Rates
from tests.unit.plan.driver import Simulation, ok, run, used

RATES = Rates(Decimal("0.001"), Decimal("0.001"), call_input_tokens=40, call_output_tokens=60)


def test_the_status_tells_of_an_agents_budget_only_while_it_holds_something_back() -> None:
    sim = Simulation(
        """
parallelism: 1
steps:
- {name: a, agentRef: {name: x}}
- {name: b, agentRef: {name: y}}
""",
        agents=[AgentView("x", "r1", 300.0, limits_cost=True, rates=RATES)],
    )
    refused = []

    def grant(agent: str, *_: Any) -> Grant:
        refused.append(agent)
        return Grant.EXCEEDED if agent == "x" and len(refused) < 3 else Grant.GRANTED

    sim.grant = grant
    sim.tick()
    before = sim.status
    sim.tick()
    assert sim.status == before


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


def test_what_a_child_cost_is_seen_by_the_condition_that_ends_its_loop() -> None:
    sim = Simulation(
        """
steps:
- {name: seen, transform: $(workflow.costUSD)}
- name: c
  workflow: {templateRef: {name: t}}
  loop: {until: workflow.costUSD == '0.5', maxIterations: 3}
- {name: d, dependsOn: [c], agentRef: {name: x}, input: $(workflow.costUSD)}
""",
        {"d": ok(cost=None)},
    ).to(1)
    sim.child_ends("c", used=used("0.25"))
    assert sim.row("c").iteration == 2
    sim.to(2).child_ends("c", used=used("0.25"))
    assert (sim.row("c").phase, sim.input_of("d")) == (StepPhase.SUCCEEDED, "0.5")
