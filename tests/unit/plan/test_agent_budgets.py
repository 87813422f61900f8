"""Budgets of Agents: what is held and spent in a period, and what steps do without money."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from corral.api.agent import AgentBudget, AgentBudgetStatus
from corral.plan.agent_budgets import Budgets
from corral.plan.budget import Reservation
from corral.plan.observed import AgentView, Grant, Rates
from corral.plan.state import Consumption
from corral.plan.times import parse
from tests.unit.plan.driver import T0, Simulation

D = Decimal
TENTH = D("0.0001")
RATES = Rates(TENTH, TENTH, call_input_tokens=60, call_output_tokens=40)
"""A cent and a hundred tokens an attempt."""
AGENT, RUN, OTHER = ("demo", "x"), ("demo", "report"), ("demo", "other")
NOON = parse("2026-11-23T12:00:00Z")  # a Monday
DAY = 86400.0


def limits(**fields: Any) -> AgentBudget:
    return AgentBudget(**{"period": "Daily", "max_cost_usd": "1.00", **fields})


def opened(budget: AgentBudget, status: AgentBudgetStatus | None = None) -> Budgets:
    budgets = Budgets()
    budgets.open(AGENT, budget, status, NOON)
    return budgets


def spent(cost: str | None, tokens: int = 0) -> Consumption:
    return Consumption(requests=1, input_tokens=tokens, cost=None if cost is None else D(cost))


def ask(
    budgets: Budgets, budget: AgentBudget | None, attempt: str, cost: str | None, tokens: int = 0
) -> Grant:
    wanted = Reservation(None if cost is None else D(cost), tokens)
    return budgets.reserve(RUN, AGENT, budget, attempt, wanted)


def test_what_is_held_and_spent_is_within_the_budget() -> None:
    budget = limits()
    budgets = opened(budget)
    grants = [ask(budgets, budget, str(n), "0.40") for n in range(3)]
    assert grants == [Grant.GRANTED, Grant.GRANTED, Grant.LATER]
    budgets.spend(AGENT, spent("0.05"))
    budgets.hold_only(RUN, {"1": (AGENT, Reservation(D("0.40"), 0))})
    assert ask(budgets, budget, "2", "0.55") is Grant.GRANTED
    assert ask(budgets, budget, "3", "0.01") is Grant.LATER
    assert ask(budgets, budget, "3", "0.96") is Grant.EXCEEDED


@pytest.mark.parametrize(
    ("fields", "cost", "tokens", "grant"),
    [
        ({}, "1.00", 10**9, Grant.GRANTED),
        ({}, "1.01", 0, Grant.EXCEEDED),
        ({}, None, 0, Grant.GRANTED),
        ({"max_cost_usd": None, "max_tokens": 100}, "99", 100, Grant.GRANTED),
        ({"max_cost_usd": None, "max_tokens": 100}, None, 101, Grant.EXCEEDED),
        ({"max_tokens": 100}, "1.00", 101, Grant.EXCEEDED),
        ({"max_tokens": 100}, "1.01", 100, Grant.EXCEEDED),
    ],
)
def test_cost_and_tokens_each_have_a_limit(
    fields: dict[str, Any], cost: str | None, tokens: int, grant: Grant
) -> None:
    budget = limits(**fields)
    assert ask(opened(budget), budget, "1", cost, tokens) is grant


def test_what_only_the_ledger_knows_is_made_up_for_and_nothing_is_taken_off() -> None:
    budgets = opened(limits(max_cost_usd="1.00", max_tokens=1000))
    budgets.spend(AGENT, spent("0.40", 100))
    budgets.make_up(AGENT, spent("0.30", 300))
    shown = budgets.status(AGENT)
    assert shown is not None
    assert (shown.spent_cost_usd, shown.spent_tokens) == ("0.4", 300)
    budgets.make_up(AGENT, spent("1.00", 0))
    assert budgets.exhausted(AGENT, limits(max_cost_usd="1.00"))
    budgets.make_up(("demo", "nobody"), spent("1.00"))  # has none


def test_an_agent_without_a_budget_is_not_held_back() -> None:
    budgets = opened(limits())
    assert ask(budgets, None, "1", "99") is Grant.GRANTED
    budgets.close(AGENT)
    assert ask(budgets, limits(), "1", "99") is Grant.GRANTED
    assert (budgets.status(AGENT), budgets.resets_at(AGENT)) == (None, None)
    assert not budgets.exhausted(AGENT, limits())
    budgets.spend(AGENT, spent("1"))


def test_a_reservation_made_twice_counts_once() -> None:
    budget = limits()
    budgets = opened(budget)
    assert ask(budgets, budget, "1", "0.60") is Grant.GRANTED
    budgets.hold_only(RUN, {"1": (AGENT, Reservation(D("0.60"), 0))})
    shown = budgets.status(AGENT)
    assert shown is not None
    assert shown.reserved_cost_usd == "0.6"


def test_a_run_holds_what_its_state_says_and_tells_for_whom_it_became_less() -> None:
    budget = limits()
    budgets = opened(budget)
    held = Reservation(D("0.40"), 0)
    for run, attempt in ((RUN, "1"), (RUN, "2"), (OTHER, "3")):
        budgets.reserve(run, AGENT, budget, attempt, replace(held, cost=D("0.20")))
    assert budgets.hold_only(RUN, {"1": (AGENT, held), "2": (AGENT, held)}) == set()
    shown = budgets.status(AGENT)
    assert shown is not None
    assert shown.reserved_cost_usd == "1"  # the other run's is still there
    assert budgets.hold_only(RUN, {"1": (AGENT, held)}) == {AGENT}
    assert budgets.hold_only(RUN, {}) == {AGENT}
    assert budgets.hold_only(RUN, {}) == set()
    assert budgets.hold_only(OTHER, {}) == {AGENT}
    shown = budgets.status(AGENT)
    assert shown is not None
    assert shown.reserved_cost_usd == "0"


def test_the_status_shows_the_period() -> None:
    budget = limits(max_tokens=100)
    budgets = opened(budget)
    budgets.spend(AGENT, spent("0.250", 30))
    budgets.spend(AGENT, spent(None, 5))
    assert ask(budgets, budget, "1", "0.10", 10) is Grant.GRANTED
    shown = budgets.status(AGENT)
    assert shown is not None
    assert shown.model_dump(by_alias=True) == {
        "periodStart": "2026-11-23T00:00:00Z",
        "resetsAt": "2026-11-24T00:00:00Z",
        "spentCostUSD": "0.25",
        "reservedCostUSD": "0.1",
        "spentTokens": 35,
    }
    assert budgets.resets_at(AGENT) == parse("2026-11-24T00:00:00Z")


@pytest.mark.parametrize(
    ("cost", "tokens", "exhausted"),
    [("0.99", 99, False), ("1.00", 0, True), ("1.20", 0, True), (None, 100, True)],
)
def test_a_budget_is_exhausted_when_nothing_is_left(
    cost: str | None, tokens: int, exhausted: bool
) -> None:
    budget = limits(max_tokens=100)
    budgets = opened(budget)
    budgets.spend(AGENT, spent(cost, tokens))
    assert budgets.exhausted(AGENT, budget) is exhausted


def test_a_new_period_begins_with_nothing_spent_and_what_runs_still_held() -> None:
    budget = limits()
    budgets = opened(budget)
    budgets.spend(AGENT, spent("0.90"))
    assert ask(budgets, budget, "1", "0.10") is Grant.GRANTED
    budgets.open(AGENT, budget, None, NOON + 60)
    assert ask(budgets, budget, "2", "0.10") is Grant.LATER
    budgets.open(AGENT, budget, budgets.status(AGENT), NOON + DAY)
    assert ask(budgets, budget, "2", "0.90") is Grant.GRANTED
    assert ask(budgets, budget, "3", "0.01") is Grant.LATER
    shown = budgets.status(AGENT)
    assert shown is not None
    assert (shown.period_start, shown.spent_cost_usd) == ("2026-11-24T00:00:00Z", "0")


@pytest.mark.parametrize(
    ("start", "counts"),
    [
        ("2026-11-23T00:00:00Z", True),
        ("2026-11-22T00:00:00Z", False),
        ("2026-11-22T23:00:00Z", False),
        (None, False),
    ],
)
def test_a_status_counts_for_the_very_period_that_it_is_of(start: str | None, counts: bool) -> None:
    status = AgentBudgetStatus(
        period_start=start, spent_cost_usd="0.75", spent_tokens=7, reserved_cost_usd="0.2"
    )
    shown = opened(limits(), status).status(AGENT)
    assert shown is not None
    expected = ("0.75", 7, "0") if counts else ("0", 0, "0")
    assert (shown.spent_cost_usd, shown.spent_tokens, shown.reserved_cost_usd) == expected


CHEAP = ("cheap", Rates(TENTH / 10, TENTH / 10, 60, 40))


def of_agent(action: str, verdict: Grant, budget: str = "", **view: Any) -> Simulation:
    """A run whose Agent's budget says that until 100 s have passed."""
    own = AgentView("x", "r1", 300.0, rates=RATES, limits_cost=True, budget_action=action, **view)
    sim = Simulation(f"{budget}\nsteps: [{{name: a, agentRef: {{name: x}}}}]", agents=[own])
    asked: list[tuple[str, str, Decimal | None, int]] = []

    def grant(agent: str, attempt: str, cost: Decimal | None, tokens: int) -> Grant:
        asked.append((agent, attempt, cost, tokens))
        return verdict if sim.now < 100 else Grant.GRANTED

    sim.grant = grant
    sim.to(0)
    assert asked[0] == ("x", "run-1.a.0.1.1", D("0.01"), 100)
    return sim


def test_an_agents_budget_that_is_spent_holds_its_steps_back() -> None:
    sim = of_agent("Suspend", Grant.EXCEEDED, resets_at=T0 + 100)
    assert (sim.phases, sim.status.phase, sim.started) == ({"a": "Queued"}, "Running", [])
    shown = sim.condition("Reconciling")
    why = "the budget of Agent 'x' is spent for this period"
    assert (shown.status, shown.reason, shown.message) == ("True", "BudgetExceeded", why)
    assert (sim.status.message, sim.wake) == (why, [100])
    sim.end()
    assert (sim.starts, sim.status.message) == ([("a", 100)], None)


@pytest.mark.parametrize("action", ["Suspend", "Fail", "Fallback"])
def test_what_may_be_given_back_is_waited_for(action: str) -> None:
    sim = of_agent(action, Grant.LATER, fallback=CHEAP)
    assert (sim.phases, sim.condition("Reconciling").reason) == ({"a": "Queued"}, "Progressing")
    assert sim.to(100).end().starts == [("a", 100)]


@pytest.mark.parametrize("action", ["Fail", "Fallback"])
def test_steps_fail_where_the_agents_budget_says_so_or_has_no_fallback(action: str) -> None:
    row = of_agent(action, Grant.EXCEEDED).row("a")
    why = "the budget of Agent 'x' is spent for this period"
    assert (row.phase, row.reason, row.message) == ("Failed", "Budget", why)


@pytest.mark.parametrize(
    ("budget", "cost"), [("", None), ('budget: {maxCostUSD: "1"}', D("0.001"))]
)
def test_a_fallback_is_asked_at_its_own_price(budget: str, cost: Decimal | None) -> None:
    sim = of_agent("Fallback", Grant.EXCEEDED, budget, fallback=CHEAP)
    (sent,) = sim.started
    assert (sent.payload.model_ref, sent.payload.max_cost_usd) == ("cheap", cost)


def test_a_fallback_that_the_run_cannot_pay_is_not_asked() -> None:
    dear = ("dear", Rates(TENTH * 10, TENTH * 10, 60, 40))
    sim = of_agent("Fallback", Grant.EXCEEDED, 'budget: {maxCostUSD: "0.05"}', fallback=dear)
    assert (sim.started, sim.status.phase) == ([], "Suspended")
