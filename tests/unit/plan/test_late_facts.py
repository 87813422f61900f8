"""What a pass has to look up while it is planned: it leaves nothing half done."""

import json
from decimal import Decimal
from typing import Any

import pytest

from corral.api.workflow import WorkflowStatus
from corral.plan.facts import ArtifactNeed, Facts
from corral.plan.observed import AgentView, Pass, Rates, Result, Slot
from corral.plan.state import Consumption, Run, Worker, from_journal
from corral.plan.status import status_of
from corral.plan.workflow import plan
from tests.unit.plan.driver import NAME, NAMESPACE, RUN_ID, T0, spec_of

BIG = {"text": "w" * 3000, "good": True}
CENT = Decimal("0.01")


class Store:
    """A run whose stored values are looked up, one more each time a pass asks."""

    def __init__(self, text: str) -> None:
        self.spec = spec_of(text)
        self.status = WorkflowStatus()
        self.stored: dict[Any, Any] = {}
        self.now = T0
        self.rounds: list[int] = []
        """By pass: how often something had to be looked up."""

    def look(self, *results: Result, at: float | None = None) -> None:
        """One pass, which knows nothing beforehand; results are given to its first round only."""
        self.now = self.now if at is None else T0 + at
        view = AgentView("x", "r1", 300.0, rates=Rates(CENT, CENT, 1, 1))
        run = from_journal(self.status.journal) if self.status.journal else Run(run_id=RUN_ID)
        p = Pass(NAME, NAMESPACE, self.spec, run, {"x": view}, self.now, results, facts=Facts())
        plan(p, _all)
        self.rounds.append(0)
        while p.facts.needs:
            need = min(p.facts.needs, key=repr)
            known = (
                self.stored[need] if need in self.stored else json.loads(p.to_store[need.sha256])
            )  # type: ignore[union-attr]
            p.facts.known[need] = known
            p.facts.needs, p.results = set(), ()
            plan(p, _all)
            self.rounds[-1] += 1
        for sha256, content in p.to_store.items():
            self.stored[ArtifactNeed(RUN_ID, sha256, len(content))] = json.loads(content)
        self.status = status_of(p, self.status, 1)

    def phase(self, step: str) -> str:
        return next(row.phase.value for row in self.status.steps or [] if row.name == step)


def _all(wants: Any) -> dict[str, Slot]:
    worker = Worker(pod="p", uid="u", url="h")
    return {want.attempt_id: Slot(worker, "r1") for want in wants}


def told(attempt: str, output: Any, cost: str = "0.01") -> Result:
    return Result(f"{RUN_ID}.{attempt}", "u", Consumption(requests=1, cost=Decimal(cost)), output)


LOOP = """
budget: {maxCostUSD: "1"}
steps:
- {name: a, agentRef: {name: x}}
- name: b
  dependsOn: [a]
  agentRef: {name: x}
  loop: {until: steps.a.output.good && output >= 2, maxIterations: 3}
  deadline: 60s
"""


def test_a_result_is_judged_and_booked_once_when_what_its_condition_needs_is_known() -> None:
    store = Store(LOOP)
    store.look()
    store.look(told("a.0.1.1", BIG))
    store.look(told("b.0.1.1", 1), told("b.0.1.1", 1))
    assert (store.rounds, store.phase("b")) == ([0, 0, 1], "Running")
    store.look(told("b.0.2.1", 2))
    assert (store.phase("b"), store.status.phase) == ("Succeeded", "Succeeded")
    assert store.status.usage is not None
    assert (store.status.usage.requests, store.status.usage.cost_usd) == (3, "0.03")


def test_a_result_that_comes_with_the_deadline_is_booked_though_it_is_not_judged() -> None:
    store = Store(LOOP)
    store.look()
    store.look(told("a.0.1.1", BIG))
    store.look(told("b.0.1.1", 2), at=60)
    assert (store.phase("b"), store.rounds[-1]) == ("Failed", 1)
    assert store.status.usage is not None
    assert store.status.usage.requests == 2
    assert store.status.budget is not None
    assert store.status.budget.reserved_cost_usd == "0"


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        ("{when: steps.a.output.good, agentRef: {name: x}}", "Running"),
        ("{forEach: {itemsFrom: '$([steps.a.output.text])'}, agentRef: {name: x}}", "Running"),
        ("{agentRef: {name: x}, input: $(steps.a.output.text)}", "Running"),
        ("{transform: $(steps.a.output.good)}", "Succeeded"),
        ("{approval: {prompt: $(steps.a.output), approvers: [{kind: User, name: u}]}}", "Waiting"),
        ("{workflow: {templateRef: {name: t}, arguments: {v: $(steps.a.output)}}}", "Running"),
        ("{transform: '1', extract: {v: steps.a.output.good}}", "Succeeded"),
        ("{transform: '1', loop: {until: steps.a.output.good, maxIterations: 1}}", "Succeeded"),
        ("{steps: [{name: i, transform: '1'}], output: $(steps.a.output.good)}", "Succeeded"),
        ("{steps: [{name: i, agentRef: {name: x}, input: $(steps.a.output.text)}]}", "Running"),
    ],
)  # fmt: skip
def test_a_step_that_needs_a_stored_value_goes_on_within_the_pass(step: str, phase: str) -> None:
    budget = 'budget: {maxCostUSD: "0.05"}'  # which is held for the child once, and not twice
    one = step.replace("{", "{name: b, dependsOn: [a], ", 1)
    store = Store(f"{budget}\nsteps:\n- {{name: a, agentRef: {{name: x}}}}\n- {one}")
    store.look()
    store.look(told("a.0.1.1", BIG))
    assert store.phase("b") == phase
    store.look()
    assert (store.rounds[-1], store.phase("b")) == (0, phase)


def test_arguments_of_a_child_see_the_number_of_its_attempt() -> None:
    call = "workflow: {templateRef: {name: t}, arguments: {n: '$([7, 8][attempt - 1])'}}"
    store = Store(f"steps: [{{name: c, {call}}}]")
    store.look()
    assert store.phase("c") == "Running"
