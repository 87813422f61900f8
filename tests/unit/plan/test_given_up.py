"""What was given up: it is held for and booked until it has told what it used."""

from dataclasses import replace
from decimal import Decimal

import pytest

from corral.api.errors import ErrorClass
from corral.plan.budget import Reservation
from corral.plan.holdings import on_workers, reservations
from corral.plan.observed import AgentView, Rates, Result
from corral.plan.state import Consumption
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


LOST = "worker w can't be reached; this may still run there and may overlap"


@pytest.mark.parametrize(("final", "phase"), [(False, "Succeeded"), (True, "Failed")])
def test_what_a_lost_worker_ran_is_left_to_be_cancelled_there(final: bool, phase: str) -> None:
    answers = {"a": [HANGS, ok("again", cost="0.02")]}
    sim = Simulation("steps: [{name: a, agentRef: {name: x}}]", answers).to(5)
    (attempt,) = on_workers(sim.run_state)
    lost = Result(attempt, "uid-x", used(None), error=ErrorClass.WORKER_LOST, message=LOST)
    sim.deliver(replace(lost, used=Consumption(), unreachable=True, final=final), 10)
    sim.to(10)
    assert list(sim.run_state.unsettled) == [attempt]
    sim.end()
    row = sim.row("a")
    assert (row.phase, row.message, row.attempts) == (phase, LOST, 1 if final else 2)
    # Its node comes back: it is cancelled there, and what it used is booked.
    sim.deliver(Result(attempt, "uid-x", used("0.01"), "too late"), 500)
    sim.to(500)
    assert sim.run_state.settled
    assert sim.run_state.late.requests == 1
    assert sim.row("a").phase == phase
