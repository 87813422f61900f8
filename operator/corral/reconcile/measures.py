"""What metrics say of runs: how many there are of what, how long they stand still, how they end.

Ends are counted as they are committed. How many there are follows every change that is seen of a
Workflow, so no pass and no scrape walks through those that have ended.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from corral.api.workflow import FINAL_STEP_PHASES, StepPhase, WorkflowPhase, WorkflowStatus
from corral.kube.client import Json
from corral.plan.attempts import Place
from corral.plan.selection import agent_of
from corral.plan.state import Run
from corral.reconcile.store import ObjectKey, key_of
from corral.reconcile.world import World
from corral.telemetry import metrics

_OPEN_ITEMS = {
    "queued": StepPhase.QUEUED,
    "running": StepPhase.RUNNING,
    "waiting": StepPhase.WAITING,
}
"""The counts of a fan-out's row that are of items that have not ended."""
_AT_WORK = frozenset({StepPhase.QUEUED, StepPhase.RUNNING})

StepLabels = tuple[str, str, str]
"""(agent, phase, reason)."""


@dataclass
class _Seen:
    """What a Workflow adds to the metrics."""

    phase: str
    waits_for: str = ""
    """Empty for one that has ended."""
    journal: str | None = None
    since: float = 0.0
    """When its journal changed last."""
    steps: Counter[StepLabels] = field(default_factory=Counter)
    queued: dict[str, tuple[str, Any, float]] = field(default_factory=dict)
    """By queued step: its agent, what changes when any of it starts, and when that changed."""
    budget: float | None = None
    """The share of its budget that it has spent."""


class Measures:
    """How many Workflows and steps there are, and how they stand."""

    def __init__(self, world: World, clock: Callable[[], float] = monotonic) -> None:
        self._world = world
        self._clock = clock
        self._leads = False
        self._open: dict[ObjectKey, _Seen] = {}
        self._ended: dict[ObjectKey, str] = {}
        """The phases of those that have ended."""
        self._phases: Counter[tuple[str, str]] = Counter()
        """By namespace and phase."""

    def begin(self) -> None:
        """Takes up all Workflows that there are: this process leads from now on."""
        self._leads = True
        for obj in self._world.workflows:
            self._see(key_of(obj), obj)
        self._world.workflows.on_change = self._see

    def _see(self, key: ObjectKey, obj: Json | None) -> None:
        """A Workflow was seen anew, or is gone."""
        before = self._open.pop(key, None)
        phase = self._ended.pop(key, None) if before is None else before.phase
        if phase is not None:
            self._phases[key[0], phase] -= 1
        if obj is None:
            return
        status = obj.get("status") or {}
        phase = status.get("phase") or WorkflowPhase.PENDING.value
        self._phases[key[0], phase] += 1
        if status.get("finishedAt"):
            self._ended[key] = phase
        else:
            self._open[key] = self._look(status, phase, before)

    def _look(self, status: Json, phase: str, before: _Seen | None) -> _Seen:
        now, journal = self._clock(), status.get("journal")
        still = before is not None and before.journal == journal
        seen = _Seen(phase, journal=journal, since=before.since if before and still else now)
        for row in status.get("steps") or []:
            if row["phase"] not in FINAL_STEP_PHASES:
                self._look_at_step(seen, row, before, now)
        seen.waits_for = _waits_for(status, seen.steps)
        seen.budget = _budget_used(status.get("budget") or {})
        return seen

    def _look_at_step(self, seen: _Seen, row: Json, before: _Seen | None, now: float) -> None:
        agent, reason = _one_agent(row), row.get("reason") or ""
        items = row.get("items")
        if items is None:
            seen.steps[agent, row["phase"], reason] += 1
        else:
            for name, phase in _OPEN_ITEMS.items():
                if count := items.get(name):
                    seen.steps[agent, phase.value, reason] += count
        if items["queued"] if items else row["phase"] == StepPhase.QUEUED:
            started = (items or row.get("attempts"), row.get("iteration"))
            known = before.queued.get(row["name"]) if before else None
            since = known[2] if known and known[1] == started else now
            seen.queued[row["name"]] = (agent, started, since)

    def sample(self) -> None:
        """Sets the gauges: to be called before they are read."""
        if not self._leads:
            return
        now = self._clock()
        steps: Counter[tuple[str, str, str, str]] = Counter()
        still: dict[tuple[str, str], float] = {}
        waits: dict[tuple[str, str], float] = {}
        budgets: dict[str, float] = {}
        for (namespace, _), seen in self._open.items():
            for labels, count in seen.steps.items():
                steps[(namespace, *labels)] += count
            at = (namespace, seen.waits_for)
            still[at] = max(still.get(at, 0.0), now - seen.since)
            for agent, _, since in seen.queued.values():
                waits[namespace, agent] = max(waits.get((namespace, agent), 0.0), now - since)
            if seen.budget is not None:
                budgets[namespace] = max(budgets.get(namespace, 0.0), seen.budget)
        self._phases = +self._phases
        namespaces = {namespace for namespace, _ in self._phases}
        counts = {(one, phase.value): 0 for one in namespaces for phase in WorkflowPhase}
        agents = {
            key: share
            for key in self._world.budgets.agents()
            if (budget := self._world.agent_budget(key)) is not None
            and (share := self._world.budgets.used(key, budget)) is not None
        }
        for gauge, values in (
            (metrics.WORKFLOWS, counts | self._phases),
            (metrics.STEPS, steps),
            (metrics.WORKFLOW_STILL, still),
            (metrics.STEP_QUEUE_AGE, waits),
            (metrics.AGENT_BUDGET, agents),
            (metrics.WORKFLOW_BUDGET, {(one,): share for one, share in budgets.items()}),
        ):
            gauge.clear()
            for place, value in values.items():
                gauge.labels(*place).set(value)


def _waits_for(status: Json, steps: Counter[StepLabels]) -> str:
    conditions = {one["type"]: one for one in status.get("conditions") or []}
    for kind in ("Suspended", "Stalled", "Reconciling"):
        found = conditions.get(kind)
        if found and found["status"] == "True" and found["reason"] != "Progressing":
            return str(found["reason"])
    phases = {phase for _, phase, _ in steps}
    return "Waiting" if "Waiting" in phases and not phases & _AT_WORK else "Progressing"


def _budget_used(budget: Json) -> float | None:
    shares = [
        float(budget.get(spent) or 0) / float(limit)
        for spent, limited in (("spentCostUSD", "limitCostUSD"), ("spentTokens", "limitTokens"))
        if (limit := budget.get(limited)) and float(limit)
    ]
    return max(shares, default=None)


def _one_agent(row: Json) -> str:
    """The Agent that does most of a step: rows name one, and how many more there are."""
    return str(row.get("agent") or "").split(" ", 1)[0]


def count_ends(previous: WorkflowStatus, written: Json, run: Run) -> None:
    """Counts the steps, and the run, that this write ended.

    Args:
        previous: the status before ``written`` was written.
    """
    status, namespace = written["status"], written["metadata"]["namespace"]
    if status.get("progress") != previous.progress:
        before = {row.name: row.phase for row in previous.steps or []}
        steps = run.steps | run.exit_steps
        for row in status.get("steps") or []:
            name, phase = row["name"], row["phase"]
            if phase not in FINAL_STEP_PHASES or before.get(name) in FINAL_STEP_PHASES:
                continue
            agent = _one_agent(row)
            reason = "" if phase == StepPhase.SUCCEEDED else row.get("reason") or ""
            metrics.STEPS_FINISHED.labels(namespace, agent, phase, reason).inc()
            step = steps[name]
            started = [node.started for node in step.nodes if node.started is not None]
            if started and step.finished is not None:
                took = step.finished - min(started)
                metrics.STEP_SECONDS.labels(namespace, agent, phase).observe(took)
    if run.finished is not None and previous.finished_at is None:
        template = written["spec"].get("workflowTemplateRef", {}).get("name", "")
        ended = (namespace, template, run.phase.value)
        [why] = [one["reason"] for one in status["conditions"] if one["type"] == "Finished"]
        metrics.WORKFLOWS_FINISHED.labels(*ended, why).inc()
        if run.started is not None:
            metrics.WORKFLOW_SECONDS.labels(*ended).observe(run.finished - run.started)


def count_start(namespace: str, place: Place) -> None:
    """Measures how long an attempt waited that was committed as started, if it is a first one."""
    _, spec, step, index = place
    node = step.nodes[index]
    if node.attempts == 1 and step.queued is not None and node.attempt_started is not None:
        waited = metrics.STEP_QUEUE_SECONDS.labels(namespace, agent_of(spec, node) or "")
        waited.observe(node.attempt_started - step.queued)
