"""``budget``: what happens when it is spent, or nearly so."""

from decimal import Decimal
from typing import Any

import pytest

from corral.api.workflow import WorkflowBudget
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import AgentView, Rates
from tests.unit.plan.driver import Simulation, fails, ok, run

D = Decimal
TENTH = D("0.0001")
RATES = Rates(TENTH, TENTH, call_input_tokens=60, call_output_tokens=40)
"""A cent and a hundred tokens an attempt."""
X = AgentView("x", "r1", 300.0, rates=RATES)


def chain(budget: str, extra: str = "", more: str = "") -> str:
    return f"""
budget: {{{budget}}}
steps:
- {{name: a, agentRef: {{name: x}}{extra}}}
- {{name: b, agentRef: {{name: x}}, dependsOn: [a], triggerRule: AllDone}}
{more}
"""


def fan(budget: str, items: int = 4, more: str = "") -> str:
    return f"""
budget: {{{budget}}}
steps:
- {{name: f, agentRef: {{name: x}}, forEach: {{items: {list(range(items))}}}}}
- {{name: g, agentRef: {{name: x}}, dependsOn: [f]}}
{more}
"""


def simulation(text: str, answers: Any = None) -> Simulation:
    return Simulation(text, answers, agents=[X])


def test_nothing_is_decided_while_what_runs_may_give_back() -> None:
    sim = simulation(fan('maxCostUSD: "0.015"', 2), {"f[0]": ok(takes=5)}).to(4)
    assert (sim.status.phase, sim.phases["f"], len(sim.started)) == ("Running", "Running", 1)
    assert sim.to(5).status.phase == "Suspended"


def suspended(budget: str = 'maxCostUSD: "0.015"') -> Simulation:
    return simulation(chain(budget)).to(5)


def test_a_spent_budget_suspends_the_run() -> None:
    sim = suspended()
    assert (sim.status.phase, sim.phases) == ("Suspended", {"a": "Succeeded", "b": "Queued"})
    text = "the budget of 0.015 USD has too little left for the next step; raise it to go on"
    assert sim.status.message == text
    shown = sim.condition("Suspended")
    assert (shown.status, shown.reason, shown.message) == ("True", "BudgetExceeded", text)
    assert sim.warnings == [
        "the budget of 0.015 USD is spent: 0.01 USD and 15 tokens were used, "
        "and the next step may need more than is left"
    ]
    assert sim.status.budget is not None
    assert sim.status.budget.model_dump(exclude_none=True, by_alias=True) == {
        "spentCostUSD": "0.01",
        "reservedCostUSD": "0",
        "limitCostUSD": "0.015",
    }
    assert sim.to(1000).status.phase == "Suspended"
    assert len(sim.warnings) == 1


@pytest.mark.parametrize(
    ("edit", "phase"),
    [
        (WorkflowBudget(max_cost_usd="0.02"), "Succeeded"),
        (WorkflowBudget(max_tokens=1000), "Succeeded"),
        (WorkflowBudget(max_cost_usd="0.016"), "Suspended"),
        (WorkflowBudget(max_cost_usd="0.015", warn_at=[9]), "Suspended"),
        (WorkflowBudget(max_cost_usd="0.015", on_exceeded="Fail"), "Failed"),
        (WorkflowBudget(max_cost_usd="0.015", on_exceeded="Conclude"), "Succeeded"),
    ],
)
def test_another_budget_lets_it_go_on(edit: WorkflowBudget, phase: str) -> None:
    sim = suspended().at(10, budget=edit).to(20)
    assert sim.status.phase == phase
    assert sim.phases["b"] == {"Suspended": "Queued", "Failed": "Omitted"}.get(
        phase, "Omitted" if edit.on_exceeded == "Conclude" else "Succeeded"
    )
    if phase == "Succeeded":
        assert sim.condition("Suspended").status == "False"
    assert len(sim.warnings) == (2 if edit.max_cost_usd == "0.016" else 1) + bool(edit.warn_at)


def test_a_suspended_run_can_be_stopped_and_goes_on_without_a_budget() -> None:
    assert suspended().at(10, shutdown="Stop").end().status.phase == "Stopped"
    sim = Simulation(chain('maxCostUSD: "0.015"'), agents=[X]).at(10, budget=None).end()
    assert (sim.status.phase, sim.now, sim.status.budget) == ("Succeeded", 11, None)


EXIT = "onExit: [{name: e, agentRef: {name: x}, input: $(workflow.phase)}]"


def test_fail_ends_the_run() -> None:
    sim = simulation(fan('maxCostUSD: "0.025", onExceeded: Fail')).end()
    assert sim.phases == {"f": "Cancelled", "g": "Omitted"}
    assert (sim.status.phase, len(sim.started)) == ("Failed", 2)
    for kind, status in (("Finished", "True"), ("Succeeded", "False"), ("Stalled", "True")):
        shown = sim.condition(kind)
        assert (shown.status, shown.reason) == (status, "BudgetExceeded")
    assert (sim.status.message or "").startswith("the budget of 0.025 USD is spent: 0.02 USD")
    assert not sim.has_condition("Degraded")


def test_conclude_ends_with_what_there_is() -> None:
    budget = 'maxCostUSD: "0.025", onExceeded: Conclude'
    sim = simulation(fan(budget, more="output: $(steps.f.outputs)")).end()
    assert sim.phases == {"f": "Succeeded", "g": "Omitted"}
    row = sim.row("f")
    assert row.message == "2 of 4 items were not started: the budget is spent"
    assert row.items is not None
    assert (row.items.succeeded, row.items.omitted) == (2, 2)
    assert (sim.status.phase, sim.status.output) == ("Succeeded", ["done", "done"])
    shown = {kind: sim.condition(kind) for kind in ("Finished", "Succeeded", "Degraded")}
    assert {one.status for one in shown.values()} == {"True"}
    assert {one.reason for one in shown.values()} == {"BudgetExceeded"}
    assert sim.condition("Stalled").status == "False"


@pytest.mark.parametrize(
    ("text", "answers", "phases", "phase", "output"),
    [
        pytest.param(
            fan('maxCostUSD: "0.005", onExceeded: Conclude', more="output: $(steps.f.outputs)"),
            {},
            {"f": "Omitted", "g": "Omitted"},
            "Succeeded",
            None,
            id="nothing was done",
        ),
        pytest.param(
            fan('maxCostUSD: "0.025", onExceeded: Conclude', more="output: $(steps.g.output)"),
            {},
            {"f": "Succeeded", "g": "Omitted"},
            "Succeeded",
            None,
            id="the output was not done",
        ),
        pytest.param(
            chain('maxCostUSD: "0.015", onExceeded: Conclude', ", allowFailure: true"),
            {"a": fails()},
            {"a": "Failed", "b": "Omitted"},
            "Succeeded",
            None,
            id="an allowed failure",
        ),
        pytest.param(
            chain('maxCostUSD: "0.015", onExceeded: Conclude'),
            {"a": fails()},
            {"a": "Failed", "b": "Omitted"},
            "Failed",
            None,
            id="a failure",
        ),
    ],
)
def test_what_conclude_comes_to(
    text: str, answers: Any, phases: dict[str, str], phase: str, output: Any
) -> None:
    sim = simulation(text, answers).end()
    assert (sim.phases, sim.status.phase, sim.status.output) == (phases, phase, output)
    assert sim.condition("Finished").reason == "BudgetExceeded"


@pytest.mark.parametrize(("action", "seen"), [("Fail", "Failed"), ("Conclude", "Succeeded")])
def test_on_exit_is_not_held_back(action: str, seen: str) -> None:
    budget = f'maxCostUSD: "0.015", onExceeded: {action}'
    sim = Simulation(chain(budget, more=EXIT), agents=[X]).end()
    assert (sim.phases["e"], sim.input_of("e")) == ("Succeeded", seen)
    assert sim.condition("Finished").reason == "BudgetExceeded"


@pytest.mark.parametrize(
    ("budget", "limit"),
    [
        ("maxTokens: 60", "60 tokens"),
        ('maxCostUSD: "0.04", maxTokens: 99', "0.04 USD and 99 tokens"),
    ],
)
def test_each_share_is_told_of_once(budget: str, limit: str) -> None:
    text = f"""
budget: {{{budget}, warnAt: [100, 50, 80]}}
steps: [{{name: f, agentRef: {{name: x}}, forEach: {{items: [1, 2, 3, 4], maxConcurrent: 1}}}}]
"""
    small = AgentView("x", "r1", 300.0, rates=Rates(TENTH, TENTH, 10, 5))
    sim = Simulation(text, agents=[small])
    told = [len(sim.to(moment).warnings) for moment in (1, 2, 3, 4)]
    assert (told, sim.status.phase) == ([0, 1, 1, 3], "Succeeded")
    assert sim.warnings == [
        f"{share}% of the budget of {limit} are spent" for share in (50, 80, 100)
    ]


@pytest.mark.parametrize(
    ("policy", "phase", "reason"),
    [
        ("", "Succeeded", None),
        ("onUnpriced: Allow", "Succeeded", None),
        ("onUnpriced: Fail", "Failed", "Budget"),
    ],
)
def test_what_has_no_price_runs_unless_it_must_not(
    policy: str, phase: str, reason: str | None
) -> None:
    budget = 'maxCostUSD: "0.001"' + (f", {policy}" if policy else "")
    sim = run(
        f"budget: {{{budget}}}\nsteps: [{{name: a, agentRef: {{name: y}}}}]", {"a": ok(cost=None)}
    )
    assert (sim.row("a").phase, sim.row("a").reason) == (phase, reason)
    if reason:
        why = "the Model of Agent 'y' has no known price, and budget.onUnpriced is Fail"
        assert (sim.row("a").message, sim.started) == (why, [])
    else:
        assert sim.status.usage is not None
        assert (sim.row("a").cost_usd, sim.status.usage.unpriced_requests) == (None, 1)


def test_a_tool_call_needs_no_price() -> None:
    text = """
budget: {maxCostUSD: "0.001", maxTokens: 1, onUnpriced: Fail}
steps: [{name: a, tool: {mcp: {url: "http://t"}, name: t}}]
"""
    runner = AgentView(TOOL_RUNNER, "r1", 300.0, rates=Rates(turns=0))
    assert run(text, {"a": ok(cost="0")}, agents=[runner]).phases == {"a": "Succeeded"}
