"""What runs make and wait for: ApprovalRequests, and child Workflows.

Both have names that follow from their place in the run, so that making one twice is not possible:
who meets 409 has made it before. The API server deletes them with their Workflow.
"""

import logging
from collections.abc import Iterable
from decimal import ROUND_DOWN

from pydantic import ValidationError

from corral.api.approval import ApprovalRequestSpec
from corral.api.errors import ConditionType, ErrorClass, Reason
from corral.api.template import TemplateSpec
from corral.api.workflow import FINAL_WORKFLOW_PHASES, WorkflowBudget, WorkflowStatus
from corral.kube.client import APPROVALS, WORKFLOWS, Json, Kind
from corral.kube.events import post_event
from corral.plan.artifacts import is_reference, parse
from corral.plan.budget import SMALLEST_MONEY
from corral.plan.conditions import find
from corral.plan.names import (
    ANNOTATION_CORRELATION_ID,
    ANNOTATION_CREATED_BY,
    ANNOTATION_TRACEPARENT,
    LABEL_WORKFLOW,
)
from corral.plan.observed import ApprovalView, ChildView, WantedApproval, WantedChild
from corral.plan.state import Consumption, Stored
from corral.plan.times import rfc3339
from corral.reconcile.owned import owned_object
from corral.reconcile.store import Store, owned_by
from corral.reconcile.world import World, read_spec

log = logging.getLogger(__name__)

_HANDED_ON = (ANNOTATION_CREATED_BY, ANNOTATION_CORRELATION_ID)
SHOWN_ARGUMENTS = 60_000
"""Characters of a tool call's arguments that an ApprovalRequest shows."""


def approvals_of(world: World, workflow: Json, names: Iterable[str]) -> dict[str, ApprovalView]:
    """The ApprovalRequests of a run, by name; those that are there and its own."""
    namespace, uid = workflow["metadata"]["namespace"], workflow["metadata"]["uid"]
    found = {}
    for name in names:
        obj = world.approvals.get((namespace, name))
        if obj is None or not owned_by(obj, uid):
            continue
        spec = read_spec(ApprovalRequestSpec, obj)
        if not isinstance(spec, ApprovalRequestSpec) or spec.decision is None:
            found[name] = ApprovalView()
            continue
        made = spec.decision
        found[name] = ApprovalView(made.verdict, made.by, made.comment or "", made.values or {})
    return found


def children_of(world: World, workflow: Json, names: Iterable[str]) -> dict[str, ChildView]:
    """The child Workflows of a run, by name; those that are there and its own."""
    namespace, uid = workflow["metadata"]["namespace"], workflow["metadata"]["uid"]
    found = {}
    for name in names:
        obj = world.workflows.get((namespace, name))
        # Anybody can write an ownerReference, but nobody another's name as who made it.
        if obj is not None and owned_by(obj, uid) and _maker(obj) == _maker(workflow):
            found[name] = _child_view(obj)
    return found


def _maker(obj: Json) -> str | None:
    return (obj["metadata"].get("annotations") or {}).get(ANNOTATION_CREATED_BY)


def _child_view(obj: Json) -> ChildView:
    try:
        status = WorkflowStatus.model_validate(obj.get("status") or {})
    except ValidationError:
        return ChildView()
    if status.phase not in FINAL_WORKFLOW_PHASES:
        stalled = find(status.conditions, ConditionType.STALLED)
        if stalled is None or stalled.status != "True" or status.started_at is not None:
            return ChildView(phase=status.phase)
        # It can't even start, and nobody but its author's template could change that.
        return ChildView(
            phase=status.phase, finished=True, reason=stalled.reason, message=stalled.message
        )
    output, stored = status.output, None
    if is_reference(output):
        place = parse(output)
        output, stored = None, Stored(sha256=place.sha256, size=place.size, run_id=place.run_id)
    return ChildView(
        phase=status.phase,
        finished=True,
        used=Consumption.of(status.usage),
        output=output,
        stored=stored,
        reason=_why_failed(status),
        message=status.message or "",
    )


def _why_failed(status: WorkflowStatus) -> str:
    """The error class of the step that failed, or of the budget."""
    ended = find(status.conditions, ConditionType.FINISHED)
    if ended is not None and ended.reason == Reason.BUDGET_EXCEEDED:
        return ErrorClass.BUDGET
    reasons = [row.reason for row in status.steps or [] if row.phase == "Failed"]
    return next((reason for reason in reasons if reason), "")


async def make_approval(world: World, workflow: Json, wanted: WantedApproval) -> None:
    """Makes an ApprovalRequest, and tells of it.

    Raises:
        ApiError: the API server refused.
    """
    meta = workflow["metadata"]
    spec: Json = {
        "workflowRef": {"name": meta["name"], "uid": meta["uid"]},
        "step": wanted.step,
        "prompt": wanted.prompt,
        "allowSelfApproval": wanted.allow_self_approval,
    }
    if wanted.approvers:
        spec["approvers"] = [dict(one) for one in wanted.approvers]
    if creator := (meta.get("annotations") or {}).get(ANNOTATION_CREATED_BY):
        spec["requestedBy"] = creator
    if wanted.allow_edit:
        spec["allowEdit"] = list(wanted.allow_edit)
    if wanted.expires_at is not None:
        spec["expiresAt"] = rfc3339(wanted.expires_at)
    if wanted.tool is not None:
        name, arguments = wanted.tool
        spec["tool"] = {"name": name[:128], "arguments": _shortened(arguments)}
    if await _make(world, APPROVALS, workflow, wanted.name, "ApprovalRequest", spec, wanted.step):
        why = f"{wanted.step}: {wanted.prompt}"[:900]
        note = f"{why} (corral approve {meta['name']})"
        await post_event(world.kube, workflow, "Normal", "ApprovalRequested", note)


def _shortened(arguments: str) -> str:
    """What a person can read; the approval is bound to the whole by the request's name."""
    if len(arguments) <= SHOWN_ARGUMENTS:
        return arguments
    return f"{arguments[:SHOWN_ARGUMENTS]}… ({len(arguments)} characters)"


async def make_child(world: World, workflow: Json, wanted: WantedChild) -> None:
    """Makes a child Workflow, with what its parent may still spend as its budget.

    Raises:
        ApiError: the API server refused.
    """
    namespace = workflow["metadata"]["namespace"]
    spec: Json = {"workflowTemplateRef": {"name": wanted.template}}
    if wanted.arguments:
        spec["arguments"] = wanted.arguments
    own = None
    if (found := world.templates.get((namespace, wanted.template))) is not None:
        template = read_spec(TemplateSpec, found)
        own = template.budget if isinstance(template, TemplateSpec) else None
    if (budget := _budget(wanted, own)) is not None:
        spec["budget"] = budget
    await _make(world, WORKFLOWS, workflow, wanted.name, "Workflow", spec, wanted.step)


def _budget(wanted: WantedChild, own: WorkflowBudget | None) -> Json | None:
    """The stricter of what the parent has left and what the template says; None for the latter.

    Where the parent suspends, the child fails: raising the parent's budget would not reach it.
    """
    if wanted.max_cost is None and wanted.max_tokens is None:
        return None
    ends = "Conclude" if wanted.concludes else "Fail"
    limits: Json = own.to_json() if own else {"onExceeded": ends}
    if wanted.max_cost is not None:
        least = wanted.max_cost.quantize(SMALLEST_MONEY, ROUND_DOWN)
        limits["maxCostUSD"] = f"{least.normalize():f}"
    if wanted.max_tokens is not None:
        limits["maxTokens"] = wanted.max_tokens
    return limits


async def _make(
    world: World, kind: Kind, workflow: Json, name: str, kind_name: str, spec: Json, step: str
) -> bool:
    """Whether it was made now, and not before; ``step`` as people write it."""
    declared = step.partition(".")[0].partition("[")[0]
    namespace, uid = workflow["metadata"]["namespace"], workflow["metadata"]["uid"]
    body = owned_object(workflow, kind_name, name, LABEL_WORKFLOW, _HANDED_ON, spec)
    if (traceparent := world.tracer.step(workflow, declared)) is not None:
        body["metadata"]["annotations"][ANNOTATION_TRACEPARENT] = traceparent
    store: Store = world.store(kind)
    found, made = await world.kube.make(kind, namespace, body)
    store.see(found)
    if not owned_by(found, uid):
        log.error("%s %s/%s is somebody else's", kind_name, namespace, name)
    return made
