"""What metrics say of runs."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from corral.api.agent import AgentBudget
from corral.api.attempt import ModelUsage
from corral.api.workflow import StepPhase, WorkflowPhase, WorkflowStatus
from corral.kube.client import Json
from corral.plan.agent_budgets import Budgets
from corral.plan.observed import Result
from corral.plan.state import Charge, Consumption, Node, Run, Step
from corral.reconcile import following
from corral.reconcile.measures import Measures, count_ends
from corral.reconcile.store import Store
from corral.reconcile.world import World

NOW = 1_700_000_000.0


class Bench:
    """Measures over a store, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.workflows, self.budgets = Store(), Budgets()
        self.budget: AgentBudget | None = None
        self.version = 0
        world = SimpleNamespace(
            workflows=self.workflows, budgets=self.budgets, agent_budget=lambda _: self.budget
        )
        self.measures = Measures(cast("World", world), lambda: self.now)

    def see(self, name: str, *rows: Json, **status: Any) -> None:
        """A Workflow changes."""
        self.version += 1
        self.workflows.see(
            {
                "metadata": {
                    "namespace": "team",
                    "name": name,
                    "uid": name,
                    "resourceVersion": str(self.version),
                },
                "status": {"phase": "Running", "steps": list(rows), **status},
            }
        )

    def value(self, name: str, **labels: str) -> float | None:
        """What a scrape shows; None if there is no such series."""
        self.measures.sample()
        return REGISTRY.get_sample_value(name, {"namespace": "team", **labels})


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.measures.begin()
    return made


def row(name: str, phase: StepPhase, agent: str = "writer", **more: Any) -> Json:
    return {"name": name, "phase": phase.value, "agent": agent, **more}


def test_workflows_are_counted_by_phase_as_they_change_and_go(bench: Bench) -> None:
    bench.see("a")
    bench.see("b", phase="Pending")
    assert bench.value("corral_workflows", phase="Running") == 1
    assert bench.value("corral_workflows", phase="Pending") == 1
    bench.see("b")
    assert bench.value("corral_workflows", phase="Running") == 2
    assert bench.value("corral_workflows", phase="Pending") == 0
    bench.see("a", phase="Failed", finishedAt="2026-01-01T00:00:00Z")
    assert bench.value("corral_workflows", phase="Failed") == 1
    bench.workflows.remove(("team", "a"))
    bench.workflows.remove(("team", "b"))
    assert bench.value("corral_workflows", phase="Running") is None, "nobody is left there"


def test_a_new_leader_counts_what_it_finds() -> None:
    bench = Bench()
    bench.see("a", row("one", StepPhase.RUNNING))
    assert bench.value("corral_workflows", phase="Running") is None, "it does not lead"
    bench.measures.begin()
    assert bench.value("corral_workflows", phase="Running") == 1
    at_work = {"agent": "writer", "phase": "Running", "reason": ""}
    assert bench.value("corral_steps", **at_work) == 1


def test_steps_are_counted_by_agent_and_reason_and_items_one_by_one(bench: Bench) -> None:
    items = {"total": 9, "succeeded": 3, "running": 4, "queued": 2}
    bench.see(
        "a",
        row("wide", StepPhase.RUNNING, "writer and 2 more", items=items),
        row("held", StepPhase.QUEUED, reason="ModelLimited"),
        row("done", StepPhase.SUCCEEDED),
    )
    assert bench.value("corral_steps", agent="writer", phase="Running", reason="") == 4
    assert bench.value("corral_steps", agent="writer", phase="Queued", reason="") == 2
    held = {"agent": "writer", "phase": "Queued", "reason": "ModelLimited"}
    assert bench.value("corral_steps", **held) == 1
    assert bench.value("corral_steps", agent="writer", phase="Succeeded", reason="") is None
    bench.see("a", phase="Succeeded", finishedAt="2026-01-01T00:00:00Z")
    assert bench.value("corral_steps", **held) is None


def test_a_run_stands_still_for_as_long_as_its_journal_does(bench: Bench) -> None:
    bench.see("a", journal="1:a")
    bench.see("b", journal="1:b")
    bench.now += 50
    bench.see("a", journal="1:a", message="looked at")
    bench.see("b", journal="1:c")
    bench.now += 10
    assert bench.value("corral_workflow_still_seconds", waits_for="Progressing") == 60
    bench.see("a", journal="1:d")
    assert bench.value("corral_workflow_still_seconds", waits_for="Progressing") == 10


@pytest.mark.parametrize(
    ("conditions", "phase", "waits_for"),
    [
        ([("Reconciling", "True", "NoCapacity")], StepPhase.QUEUED, "NoCapacity"),
        ([("Reconciling", "True", "Progressing")], StepPhase.RUNNING, "Progressing"),
        ([("Reconciling", "True", "Progressing")], StepPhase.WAITING, "Waiting"),
        ([("Stalled", "True", "AgentNotFound")], StepPhase.PENDING, "AgentNotFound"),
        (
            [("Suspended", "True", "Suspended"), ("Reconciling", "True", "NoCapacity")],
            StepPhase.QUEUED,
            "Suspended",
        ),
    ],
)
def test_what_a_run_waits_for_is_what_its_conditions_say(
    bench: Bench, conditions: list[tuple[str, str, str]], phase: StepPhase, waits_for: str
) -> None:
    told = [dict(zip(("type", "status", "reason"), one, strict=True)) for one in conditions]
    bench.see("a", row("one", phase), conditions=told)
    assert bench.value("corral_workflow_still_seconds", waits_for=waits_for) == 0


def test_a_queue_ages_until_anything_of_the_step_starts(bench: Bench) -> None:
    items = {"total": 9, "running": 1, "queued": 8}
    bench.see("a", row("wide", StepPhase.RUNNING, items=items))
    bench.now += 30
    bench.see("a", row("wide", StepPhase.RUNNING, items=items), journal="1:x")
    assert bench.value("corral_step_queue_age_seconds", agent="writer") == 30
    bench.see("a", row("wide", StepPhase.RUNNING, items=items | {"running": 2, "queued": 7}))
    assert bench.value("corral_step_queue_age_seconds", agent="writer") == 0
    bench.see("a", row("wide", StepPhase.RUNNING, items=items | {"running": 9, "queued": 0}))
    assert bench.value("corral_step_queue_age_seconds", agent="writer") is None


def test_budgets_show_the_share_that_is_spent(bench: Bench) -> None:
    bench.see("a", budget={"spentCostUSD": "0.5", "limitCostUSD": "2.00"})
    bench.see("b", budget={"spentTokens": 90, "limitTokens": 100, "limitCostUSD": "0"})
    assert bench.value("corral_workflow_budget_used_ratio") == 0.9
    bench.budget = AgentBudget.model_validate({"period": "Daily", "maxCostUSD": "4"})
    bench.budgets.open(("team", "writer"), bench.budget, None, NOW)
    bench.budgets.spend(("team", "writer"), Consumption.model_validate({"cost": "3"}))
    assert bench.value("corral_agent_budget_used_ratio", agent="writer") == 0.75


def written(*rows: Json, **status: Any) -> Json:
    return {
        "metadata": {"namespace": "ends", "name": "a"},
        "spec": {"workflowTemplateRef": {"name": "report"}},
        "status": {"steps": list(rows), **status},
    }


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"namespace": "ends", **labels}) or 0.0


def test_each_end_is_counted_once_with_how_long_it_took() -> None:
    step = Step(phase=StepPhase.FAILED, finished=NOW + 7, nodes=[Node(started=NOW + 2)])
    run = Run(run_id="r", phase=WorkflowPhase.FAILED, started=NOW, finished=NOW + 7)
    run.steps = {"one": step}
    before = WorkflowStatus.model_validate(
        {"progress": "0/1", "steps": [row("one", StepPhase.RUNNING)]}
    )
    conditions = [{"type": "Finished", "status": "True", "reason": "Failed"}]
    after = written(
        row("one", StepPhase.FAILED, reason="Timeout"),
        progress="1/1",
        conditions=conditions,
        finishedAt="2026-01-01T00:00:00Z",
    )
    count_ends(before, after, run)
    count_ends(WorkflowStatus.model_validate(after["status"] | {"conditions": []}), after, run)
    failed = {"agent": "writer", "phase": "Failed"}
    assert counted("corral_steps_finished_total", **failed, reason="Timeout") == 1
    assert counted("corral_step_duration_seconds_sum", **failed) == 5
    ended = {"template": "report", "phase": "Failed"}
    assert counted("corral_workflows_finished_total", **ended, reason="Failed") == 1
    assert counted("corral_workflow_duration_seconds_sum", **ended) == 7


def test_what_an_attempt_used_is_counted_by_agent_and_model() -> None:
    known = {"provider": "openai", "model": "m", "requests": "2"}

    def charge(model: str, cost: str | None = None, **usage: Any) -> Charge:
        used = Consumption(requests=2, input_tokens=1000, output_tokens=500)
        used.cost = None if cost is None else Decimal(cost)
        used.unpriced_requests = 2 if cost is None else 0
        return Charge(ModelUsage.model_validate({"modelRef": model, **known, **usage}), used)

    charges = (charge("fast", "0.002"), charge("other"), charge("none", simulated=True))
    following._count("ends", "writer", Result("a", "u", Consumption(), charges=charges))
    fast, other, none = ({"agent": "writer", "model": name} for name in ("fast", "other", "none"))
    assert counted("corral_cost_usd_total", **fast) == pytest.approx(0.002)
    assert counted("corral_tokens_total", **fast, type="output") == 500
    assert counted("corral_unpriced_requests_total", **fast) == 0
    assert counted("corral_unpriced_requests_total", **other) == 2
    assert counted("corral_unpriced_requests_total", **none) == 0, "nobody is paid for these"
    assert counted("corral_model_requests_total", **none) == 2
