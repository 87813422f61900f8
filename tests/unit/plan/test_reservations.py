"""What of a budget is reserved for attempts."""

from decimal import Decimal
from typing import Any

import pytest

from corral.plan.budget import Reservation, worst_case
from corral.plan.observed import AgentView, Rates, Result
from tests.unit.plan.driver import HANGS, Simulation, ok, used

D = Decimal
TENTH = D("0.0001")
RATES = Rates(TENTH, TENTH, call_input_tokens=60, call_output_tokens=40)
"""A cent and a hundred tokens an attempt."""
X = AgentView("x", "r1", 300.0, rates=RATES)


class Watched(Simulation):
    """Looks at every state: what is spent and reserved is within the limit."""

    def tick(self) -> None:
        super().tick()
        shown = self.status.budget
        assert shown is not None
        if shown.limit_cost_usd is not None:
            total = D(shown.spent_cost_usd or 0) + D(shown.reserved_cost_usd or 0)
            assert total <= D(shown.limit_cost_usd)
        if shown.limit_tokens is not None:
            total_tokens = (shown.spent_tokens or 0) + (shown.reserved_tokens or 0)
            assert total_tokens <= shown.limit_tokens


def fan(budget: str, items: int) -> str:
    return f"""
budget: {{{budget}}}
steps:
- {{name: f, agentRef: {{name: x}}, forEach: {{items: {list(range(items))}}}}}
- {{name: g, agentRef: {{name: x}}, dependsOn: [f]}}
"""


def watched(text: str, answers: Any = None, slots: int = 100) -> Watched:
    return Watched(text, answers, agents=[X], slots=slots)


P = D("0.001")


@pytest.mark.parametrize(
    ("rates", "structured", "cost", "tokens"),
    [
        pytest.param(Rates(call_output_tokens=10), False, None, 15, id="no price"),
        pytest.param(Rates(P, None, call_output_tokens=10), False, None, 15, id="half a price"),
        pytest.param(Rates(P, 2 * P, call_output_tokens=10), False, "0.025", 15, id="one call"),
        pytest.param(
            Rates(P, P, call_output_tokens=10, instructions=7),
            False,
            "0.022",
            22,
            id="instructions",
        ),
        pytest.param(
            Rates(P, P, call_output_tokens=10, turns=3),
            False,
            "0.075",  # 5 + 15 + 25 sent
            75,
            id="what was said is sent again",
        ),
        pytest.param(
            Rates(P, P, call_output_tokens=10, turns=1, structured_turns=2),
            True,
            "0.04",
            40,
            id="a schema",
        ),
        pytest.param(
            Rates(P, P, call_input_tokens=50, call_output_tokens=20, turns=3, instructions=9),
            False,
            "0.21",
            210,
            id="a simulation",
        ),
        pytest.param(
            Rates(P, P, call_output_tokens=10, max_cost=D("0.5")), False, "0.5", 15, id="its limit"
        ),
        pytest.param(
            Rates(call_output_tokens=10, max_cost=D("0.5")),
            False,
            "0.5",
            15,
            id="a limit, no price",
        ),
        pytest.param(Rates(P / 10**9, P, 0, 0), False, "0", 0, id="free"),
        pytest.param(Rates(P / 10**9, P, 1, 0), False, "0.000001", 1, id="rounded up"),
        pytest.param(Rates(turns=0), False, None, 0, id="a tool"),
    ],
)
def test_what_an_attempt_may_use(
    rates: Rates, structured: bool, cost: str | None, tokens: int
) -> None:
    found = worst_case(rates, 5, structured=structured)
    assert found == Reservation(None if cost is None else D(cost), tokens)


@pytest.mark.parametrize("slots", [1, 2, 100])
@pytest.mark.parametrize(
    ("budget", "starts"),
    [
        ('maxCostUSD: "0.035"', [0, 0, 0, 1, 1, 2, 3]),
        ("maxTokens: 350", [0, 0, 0, 1, 1, 1, 2]),
        ('maxTokens: 350, maxCostUSD: "0.029"', [0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_spent_and_reserved_are_within_the_limit_in_every_state(
    budget: str, starts: list[int] | None, slots: int
) -> None:
    sim = watched(fan(budget, 6), {"f": ok(cost="0.002")}, slots=slots).end()
    assert sim.status.phase == "Succeeded"
    if starts is not None and slots == 100:
        assert [s.at for s in sim.started] == starts


def test_a_batch_with_different_costs_starts_what_can_be_paid() -> None:
    answers = {f"f[{i}]": ok(takes=1 + i, cost="0.001") for i in range(4)}
    sim = watched(fan('maxCostUSD: "0.025"', 4), answers).end()
    assert [(s.step, s.index, s.at) for s in sim.started] == [
        ("f", 0, 0),
        ("f", 1, 0),
        ("f", 2, 1),
        ("f", 3, 2),
        ("g", 0, 6),
    ]


OWN = Rates(TENTH, TENTH, 60, 40, max_cost=D("0.5"))
FREE = Rates(D(0), D(0), 60, 40)


@pytest.mark.parametrize(
    ("budget", "view", "cost", "tokens"),
    [
        ("", {"rates": RATES}, None, None),
        ("", {"rates": OWN}, "0.5", None),
        ("", {"rates": RATES, "limits_cost": True}, "0.01", None),
        ("", {"rates": RATES, "limits_tokens": True}, None, 100),
        ('maxCostUSD: "1"', {"rates": RATES}, "0.01", None),
        ('maxCostUSD: "1"', {"rates": OWN}, "0.5", None),
        ('maxCostUSD: "1"', {"rates": FREE}, None, None),
        ('maxCostUSD: "1"', {"rates": Rates()}, None, None),
        ("maxTokens: 1000", {"rates": RATES}, None, 100),
        ("maxTokens: 1000", {"rates": FREE}, None, 100),
        ('maxCostUSD: "1", maxTokens: 1000', {"rates": RATES}, "0.01", 100),
    ],
)
def test_a_worker_is_told_what_somebody_limits(
    budget: str, view: dict[str, Any], cost: str | None, tokens: int | None
) -> None:
    head = f"budget: {{{budget}}}\n" if budget else ""
    text = head + "steps: [{name: a, agentRef: {name: x}}]"
    sim = Simulation(text, {"a": HANGS}, agents=[AgentView("x", "r1", 300.0, **view)]).to(0)
    (sent,) = sim.started
    assert sent.payload.max_cost_usd == (None if cost is None else D(cost))
    assert sent.payload.max_tokens == tokens
    (node,) = sim.run_state.steps["a"].nodes
    assert ((node.reserved or 0), node.reserved_tokens) == (D(cost or 0), tokens or 0)


@pytest.mark.parametrize("told", ["0.001", "0.01"])
def test_an_attempt_that_was_given_up_keeps_its_reservation_until_it_is_told(told: str) -> None:
    text = """
budget: {maxCostUSD: "0.015"}
steps:
- {name: a, agentRef: {name: x}, timeout: 20s, allowFailure: true}
- {name: b, agentRef: {name: x}, dependsOn: [a], triggerRule: AllDone}
"""
    sim = watched(text, {"a": HANGS}).to(100)
    assert (sim.phases, sim.status.phase) == ({"a": "Failed", "b": "Queued"}, "Running")
    assert sim.status.budget is not None
    assert sim.status.budget.reserved_cost_usd == "0.01"
    (attempt,) = sim.run_state.unsettled
    sim.deliver(Result(attempt, "uid-x", used(told)), 200)
    sim.to(300)
    assert sim.run_state.unsettled_cost == {}
    assert sim.status.phase == ("Succeeded" if told == "0.001" else "Suspended")
    if told == "0.001":
        assert sim.starts[-1] == ("b", 200)
