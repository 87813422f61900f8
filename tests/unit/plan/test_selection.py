"""``agentSelector``: which Agent does a step."""

from decimal import Decimal
from typing import Any

import pytest

from corral.api.errors import Reason
from corral.plan.observed import AgentView, Rates
from tests.unit.plan.driver import Simulation, fails, ok, run

MILLI = Decimal("0.001")


def one(wanted: str = "c", strategy: str = "First", extra: str = "") -> str:
    selector = f"{{matchCapabilities: [{wanted}], strategy: {strategy}}}"
    return f"steps: [{{name: s, agentSelector: {selector}{extra}}}]"


def fan(items: int, strategy: str) -> str:
    return one(strategy=strategy, extra=f", forEach: {{items: {list(range(items))}}}")


def able(name: str, capabilities: str = "c", **fields: Any) -> AgentView:
    return AgentView(name, "r1", 300.0, capabilities=frozenset(capabilities.split()), **fields)


def costs(sent: int, received: int) -> Rates:
    return Rates(sent * MILLI, received * MILLI)


def asked(sim: Simulation) -> list[str]:
    """The Agents whose workers ran the attempts, in order."""
    return [s.payload.worker.pod.removesuffix("-0") for s in sim.started]


A, B = able("a"), able("b")
DOWN = {"ready": False, "reason": Reason.MODEL_NOT_FOUND, "message": "there is no Model 'm'"}


@pytest.mark.parametrize(
    ("wanted", "agents", "chosen"),
    [
        pytest.param("c", [B, A], "a", id="by name"),
        pytest.param("c, d", [A, able("b", "c d"), able("e", "c d e")], "b", id="all are needed"),
        pytest.param("c, c", [A], "a", id="named twice"),
        pytest.param("c", [able("a", **DOWN), B], "b", id="that is ready"),
        pytest.param("c", [able("a", "cc"), able("b", "c")], "b", id="the very name"),
    ],
)
def test_the_first_that_can_do_all_is_taken(
    wanted: str, agents: list[AgentView], chosen: str
) -> None:
    sim = run(one(wanted), agents=agents)
    assert (asked(sim), sim.row("s").agent) == ([chosen], chosen)


@pytest.mark.parametrize(
    ("agents", "chosen"),
    [
        pytest.param(
            [able("a", rates=costs(2, 9)), able("b", rates=costs(5, 5))], "b", id="both added up"
        ),
        pytest.param([able("a", rates=costs(2, 2)), able("b", rates=costs(1, 3))], "a", id="a tie"),
        pytest.param([A, able("b", rates=costs(99, 99))], "b", id="no price comes last"),
        pytest.param(
            [able("a", rates=Rates(MILLI)), able("b", rates=costs(99, 99))],
            "b",
            id="half a price is none",
        ),
        pytest.param([B, A], "a", id="none has a price"),
        pytest.param([able("a", rates=costs(1, 1)), able("b", rates=costs(0, 0))], "b", id="free"),
        pytest.param(
            [able("a", rates=costs(0, 0), **DOWN), able("b", rates=costs(1, 1))],
            "b",
            id="not ready",
        ),
    ],
)
def test_the_cheapest_has_the_lowest_price_of_input_and_output(
    agents: list[AgentView], chosen: str
) -> None:
    assert asked(run(one(strategy="Cheapest"), agents=agents)) == [chosen]


@pytest.mark.parametrize(
    ("agents", "items", "chosen"),
    [
        pytest.param([A, B], 4, "abab", id="in turn"),
        pytest.param([able("a", busy=2), B], 4, "bbab", id="what others queued counts"),
        pytest.param([able("a", slots=3), B], 5, "abaaa", id="for each slot"),
        pytest.param([able("a", slots=0), B], 2, "ab", id="no slots count as one"),
        pytest.param([able("a", busy=4, slots=8), able("b", busy=1, slots=2)], 1, "a", id="a tie"),
    ],
)
def test_the_least_loaded_spreads_a_fan_out(
    agents: list[AgentView], items: int, chosen: str
) -> None:
    assert "".join(asked(run(fan(items, "LeastLoaded"), agents=agents))) == chosen


@pytest.mark.parametrize("strategy", ["First", "Cheapest"])
def test_other_strategies_choose_the_same_for_every_item(strategy: str) -> None:
    sim = run(fan(3, strategy), agents=[A, B])
    assert (asked(sim), sim.row("s").agent) == (["a", "a", "a"], "a")


@pytest.mark.parametrize(("items", "shown"), [(1, "a"), (2, "a and 1 more"), (5, "a and 2 more")])
def test_the_row_shows_who_does_it(items: int, shown: str) -> None:
    sim = run(fan(items, "LeastLoaded"), agents=[A, B, able("d")])
    assert sim.row("s").agent == shown


def test_steps_of_one_wave_are_spread_too() -> None:
    selector = "agentSelector: {matchCapabilities: [c], strategy: LeastLoaded}"
    text = f"steps: [{{name: s, {selector}}}, {{name: t, {selector}}}]"
    sim = run(text, agents=[A, B])
    assert (sim.row("s").agent, sim.row("t").agent) == ("a", "b")


def test_the_choice_is_kept_for_retries_and_iterations() -> None:
    extra = (
        ", retryStrategy: {limit: 1, backoff: {duration: 5s}}"
        ", loop: {until: iteration == 2, maxIterations: 2}"
    )
    sim = Simulation(one(extra=extra), {"s#1": [fails(), ok()]}, agents=[B]).to(1)
    sim.agents["a"] = A
    sim.end()
    assert set(asked(sim)) == {"b"}


def test_where_none_matches_the_run_waits_then_is_stalled_then_goes_on() -> None:
    sim = Simulation(one("c, d"), agents=[A]).to(299)
    why = "spec.steps[0].agentSelector: no Agent has the capabilities c, d"
    waits, stalled = sim.condition("Reconciling"), sim.condition("Stalled")
    assert (sim.status.phase, sim.status.message) == ("Pending", why)
    assert (waits.status, waits.reason, waits.message) == ("True", "AgentNotFound", why)
    assert stalled.status == "False"
    sim.to(300)
    waits, stalled = sim.condition("Reconciling"), sim.condition("Stalled")
    assert (waits.status, stalled.status) == ("False", "True")
    assert (stalled.reason, stalled.message) == ("AgentNotFound", why)
    sim.agents["b"] = able("b", "c d")
    sim.tick()
    assert sim.end().status.phase == "Succeeded"
    assert sim.condition("Stalled").status == "False"


def test_one_that_can_but_is_not_ready_is_named() -> None:
    sim = Simulation(one(), agents=[able("a", **DOWN), able("z", "d")]).to(0)
    shown = sim.condition("Reconciling")
    why = "Agent 'a', which has c, is not ready: there is no Model 'm'"
    assert (shown.reason, shown.message) == ("ModelNotFound", f"spec.steps[0].agentSelector: {why}")
    sim.agents["a"] = A
    sim.tick()
    assert asked(sim.end()) == ["a"]


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "not ready"])
def test_another_is_chosen_where_the_first_attempt_has_not_begun(gone: bool) -> None:
    sim = Simulation(one(), agents=[A, B], slots={"a": 0, "b": 1}).to(5)
    assert (sim.phases["s"], sim.row("s").agent) == ("Queued", "a")
    if gone:
        del sim.agents["a"]
    else:
        sim.agents["a"] = able("a", **DOWN)
    sim.tick()
    assert (sim.starts, sim.row("s").agent) == ([("s", 5)], "b")


@pytest.mark.parametrize(("gone", "second"), [(True, "b"), (False, "a")])
def test_after_the_first_attempt_only_an_agent_that_is_gone_is_replaced(
    gone: bool, second: str
) -> None:
    text = one(extra=", retryStrategy: {limit: 1, backoff: {duration: 5s}}")
    sim = Simulation(text, {"s#1": fails()}, agents=[A, B]).to(1)
    if gone:
        del sim.agents["a"]
    else:
        sim.agents["a"] = able("a", **DOWN)
    sim.to(10)
    assert asked(sim) == (["a", "b"] if gone else ["a"])
    sim.agents["a"] = A
    sim.tick()
    sim.end()
    assert asked(sim) == ["a", second]


def test_where_all_vanish_it_waits_for_one() -> None:
    sim = Simulation(one(), agents=[A], slots={"a": 0, "b": 1}).to(1)
    del sim.agents["a"]
    sim.to(2)
    assert (sim.phases, sim.row("s").agent) == ({"s": "Queued"}, None)
    assert sim.condition("Reconciling").reason == "AgentNotFound"
    sim.agents["b"] = B
    sim.tick()
    assert asked(sim.end()) == ["b"]
