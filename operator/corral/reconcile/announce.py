"""Events about runs: what a person looks for with ``kubectl describe`` or ``kubectl events``."""

from corral.api.errors import ConditionType, Reason
from corral.api.workflow import WorkflowPhase, WorkflowStatus
from corral.kube.client import Json, Kube
from corral.kube.events import post_event
from corral.plan.conditions import find
from corral.plan.observed import Pass
from corral.reconcile.measures import count_ends
from corral.reconcile.store import workflow_status
from corral.telemetry import metrics

_NO_NEWS = (
    Reason.PROGRESSING,
    Reason.APPROVAL_PENDING,
    Reason.MODEL_LIMITED,
    Reason.CIRCUIT_OPEN,
)
"""Reasons to wait of which nobody need be told, or is told otherwise."""


async def announce(kube: Kube, previous: WorkflowStatus, written: Json, p: Pass) -> None:
    """Tells of a start, an end, a suspension, what is missing, and how much is spent.

    Args:
        previous: the status before ``written`` was written.
        p: the pass that it was written for.
    """
    run = p.run
    for warning in p.warnings:
        await post_event(kube, written, "Warning", "BudgetWarning", warning)
    if run.phase is not previous.phase:
        metrics.WORKFLOW_TRANSITIONS.labels(p.namespace, run.phase.value).inc()
    count_ends(previous, written, run)
    if run.phase in (previous.phase, WorkflowPhase.PENDING):
        await _announce_waiting(kube, previous, written)
    elif run.phase is WorkflowPhase.RUNNING:
        await post_event(
            kube, written, "Normal", "Started", f"{len(run.steps)} steps", routine=True
        )
    elif run.phase is WorkflowPhase.SUSPENDED:
        await post_event(kube, written, "Normal", Reason.SUSPENDED, "nothing new starts")
    elif run.phase is WorkflowPhase.SUCCEEDED:
        cost = run.used().cost_text
        told = f"cost {cost} USD" if cost is not None else "no cost is known"
        await post_event(kube, written, "Normal", "Succeeded", told, routine=True)
    elif run.finished_for_good:
        await post_event(kube, written, "Warning", run.phase.value, run.message or "")


async def _announce_waiting(kube: Kube, previous: WorkflowStatus, written: Json) -> None:
    before = find(previous.conditions, ConditionType.RECONCILING)
    after = find(workflow_status(written).conditions, ConditionType.RECONCILING)
    if after is None or not after.message or after.reason in _NO_NEWS:
        return
    if before is None or before.reason != after.reason:
        await post_event(kube, written, "Warning", after.reason, after.message)
