"""What was given up: it is held for and booked until it has told what it used."""

from decimal import Decimal

import pytest

from corral.plan.budget import Reservation
from corral.plan.holdings import on_workers, reservations
from corral.plan.observed import AgentView, Rates, Result
from corral.plan.workflow import fail_too_large
from tests.unit.plan.driver import HANGS, Simulation, ok, used

RATES = Rates(Decimal("0.001"), Decimal("0.001"), call_input_tokens=40, call_output_tokens=60)
X = AgentView("x", "r1", 300.0, rates=RATES)
LATE = """
budget: {{{0}}}
steps:
- {{name: a, agentRef: {{name: x}}, timeout: 20s, allowFailure: true}}
- {{name: b, agentRef: {{name: x}}, dependsOn: [a], triggerRule: AllDone}}
"""


@pytest.mark.parametrize(
    ("budget", "held"),
    [
        ("maxTokens: 150", Reservation(None, 100)),
        ('maxCostUSD: "0.15"', Reservation(Decimal("0.1"), 0)),
        ('maxCostUSD: "0.15", maxTokens: 150', Reservation(Decimal("0.1"), 100)),
    ],
)
def test_what_was_held_stays_so_in_dollars_and_tokens(budget: str, held: Reservation) -> None:
    sim = Simulation(LATE.format(budget), {"a": HANGS}, agents=[X]).to(100)
    assert (sim.phases, sim.status.phase) == ({"a": "Failed", "b": "Queued"}, "Running")
    (attempt,) = on_workers(sim.run_state)
    assert reservations(sim.spec, sim.run_state) == {attempt: ("x", held)}
    sim.deliver(Result(attempt, "uid-x", used("0.01")), 200)
    sim.to(200)
    assert sim.starts[-1] == ("b", 200)
    assert sim.run_state.settled
    assert sim.end().status.usage is not None
    assert sim.row("a").cost_usd is None  # it has ended: what came late is the run's
    assert sim.run_state.late.requests == 1


def test_what_is_held_for_a_child_is_no_agents() -> None:
    sim = Simulation("""
budget: {maxCostUSD: "1"}
steps: [{name: c, workflow: {templateRef: {name: t}}, deadline: 10s, allowFailure: true}]
""").to(20)
    assert sim.run_state.unsettled_cost.keys() == {*sim.called}
    assert reservations(sim.spec, sim.run_state) == {}
    assert not sim.run_state.settled


def test_a_run_that_became_too_large_keeps_what_its_nested_steps_used() -> None:
    sim = Simulation(
        """
steps:
- {name: o, steps: [{name: a, agentRef: {name: x}}, {name: b, agentRef: {name: x}}]}
""",
        {"a": ok(cost="0.25"), "b": HANGS},
    ).to(5)
    p = sim.new_pass()
    fail_too_large(p, 2_000_000, 1_500_000)
    assert p.run.used().cost == Decimal("0.25")
    assert len(p.run.unsettled) == 1


def test_a_fan_out_over_nested_steps_concludes_with_the_items_that_are_done() -> None:
    sim = Simulation(
        """
budget: {maxCostUSD: "0.25", onExceeded: Conclude}
steps:
- name: o
  forEach: {items: [1, 2, 3], maxConcurrent: 1}
  output: $(steps.b.output)
  steps:
  - {name: a, agentRef: {name: x}}
  - {name: b, dependsOn: [a], agentRef: {name: x}}
- {name: z, dependsOn: [o], agentRef: {name: x}}
output: $(steps.o.outputs)
""",
        {"a": ok(cost="0.06"), "b": ok("done", cost="0.06")},
        agents=[X],
    ).end()
    counts = sim.row("o").items
    assert counts is not None
    assert (counts.succeeded, counts.cancelled, counts.omitted) == (1, 1, 1)
    assert (sim.phases, sim.status.output) == ({"o": "Succeeded", "z": "Omitted"}, ["done"])
    assert (sim.status.phase, sim.has_condition("Degraded")) == ("Succeeded", True)
