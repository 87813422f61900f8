"""Passes over CronWorkflows: the Workflows that it is time for, and those that can go."""

from corral.api.cron import CronSpec, CronStatus
from corral.api.errors import ConditionType, Reason
from corral.api.workflow import WorkflowPhase
from corral.kube.client import CRONS, WORKFLOWS, ApiError, Json
from corral.kube.events import post_event
from corral.plan.agent import Readiness
from corral.plan.conditions import condition, merge
from corral.plan.cron import Child, Cron, CronPlan, plan_cron
from corral.plan.names import ANNOTATION_CREATED_BY, LABEL_CRON, cron_child_name
from corral.plan.times import parse
from corral.reconcile.owned import owned_object
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.store import ObjectKey, key_of, owned_by
from corral.reconcile.world import World, read_spec, with_status
from corral.telemetry import metrics

LONGEST_SLEEP = 60.0
"""Seconds: the clock may be set while one waits for it."""
REFUSED_AGAIN = 30.0
"""Seconds until a Workflow that the API server refused is tried again."""


class Crons:
    """The passes over CronWorkflows."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def reconcile(self, key: ObjectKey) -> None:
        """One pass: stops, makes, writes status, deletes.

        Raises:
            RetryLaterError: the API server refused for now.
        """
        obj = self._world.crons.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            metrics.CRON_MISSED.remove_by_labels({"namespace": key[0], "cron": key[1]})
            return
        try:
            await self._pass(key, obj)
        except ApiError as error:
            if not error.not_found:
                raise RetryLaterError(str(error), error.retry_after) from error

    async def _pass(self, key: ObjectKey, obj: Json) -> None:
        spec = read_spec(CronSpec, obj)
        if isinstance(spec, list):
            await self._write_readiness(obj, Readiness.of(spec))
            return
        now = self._world.kube.now()
        plan = plan_cron(self._view(key, obj, spec), now)
        for child in plan.stop:
            await self._stop(key, child)
        if plan.create is not None and not await self._create(key, obj, plan.create):
            self._world.wake.cron(key)  # there is one of that name: planned again with it
            return
        await self._write(obj, plan.status)
        known = (obj.get("status") or {}).get("missed", 0)
        metrics.CRON_MISSED.labels(*key).inc(max(0, plan.status.missed - known))
        await self._tell(key, obj, plan)
        for child in plan.delete:
            await self._world.kube.delete(WORKFLOWS, key[0], child.name, child.uid)
        if plan.wake is not None:
            delay = max(0.0, plan.wake - self._world.kube.now())
            self._world.wake.cron(key, min(delay, LONGEST_SLEEP))

    def _view(self, key: ObjectKey, obj: Json, spec: CronSpec) -> Cron:
        uid = obj["metadata"]["uid"]
        children, taken = [], set()
        for workflow in self._world.workflows.in_namespace(key[0]):
            if owned_by(workflow, uid):
                if not workflow["metadata"].get("deletionTimestamp"):
                    children.append(_child(workflow))
            elif workflow["metadata"]["name"].startswith(f"{key[1]}-"):
                taken.add(workflow["metadata"]["name"])
        return Cron(
            name=key[1],
            generation=obj["metadata"]["generation"],
            created=parse(obj["metadata"]["creationTimestamp"]),
            spec=spec,
            status=CronStatus.model_validate(obj.get("status") or {}),
            children=children,
            taken=frozenset(taken),
        )

    async def _stop(self, key: ObjectKey, child: Child) -> None:
        changes = {"metadata": {"uid": child.uid}, "spec": {"shutdown": "Stop"}}
        try:
            stopped = await self._world.kube.patch(WORKFLOWS, key[0], child.name, changes)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise
        else:
            self._see(stopped)

    async def _create(self, key: ObjectKey, obj: Json, scheduled: float) -> bool:
        """Makes the Workflow; False if there is one of that name, which is known from now on.

        Raises:
            RetryLaterError: the API server will not have it.
        """
        name = cron_child_name(key[1], scheduled)
        try:
            spec = obj["spec"]["workflowSpec"]
            handed_on = (ANNOTATION_CREATED_BY,)
            body = owned_object(obj, "Workflow", name, LABEL_CRON, handed_on, spec)
            found, made = await self._world.kube.make(WORKFLOWS, key[0], body)
        except ApiError as error:
            if error.conflict or error.may_pass:
                raise
            why = f"Workflow {name} can't be made: {error}"
            await self._write_readiness(obj, Readiness(False, Reason.FAILED, why))
            raise RetryLaterError(why, REFUSED_AGAIN) from error
        if made:
            self._see(found)
        else:
            self._world.workflows.see(found)
        return made

    def _see(self, workflow: Json) -> None:
        """Knows a Workflow as it was just written: the watch will tell nothing new, so nobody
        else wakes it."""
        self._world.workflows.see(workflow)
        self._world.wake.workflow(key_of(workflow))

    async def _write_readiness(self, obj: Json, readiness: Readiness) -> None:
        """Says what is wrong, and leaves the rest of the status."""
        previous = CronStatus.model_validate(obj.get("status") or {})
        generation = obj["metadata"]["generation"]
        suspended = bool((obj.get("spec") or {}).get("suspend"))
        reason = Reason.SUSPENDED if suspended else Reason.PROGRESSING
        conditions = [
            *readiness.conditions(),
            condition(ConditionType.SUSPENDED, suspended, reason),
        ]
        now = self._world.kube.now()
        merged = merge(previous.conditions, conditions, generation, now)
        await self._write(obj, previous.model_copy(update={"conditions": merged}))

    async def _write(self, obj: Json, status: CronStatus) -> None:
        updated = with_status(obj, status)
        if updated["status"] == obj.get("status"):
            return
        await self._world.put_status(CRONS, updated)

    async def _tell(self, key: ObjectKey, obj: Json, plan: CronPlan) -> None:
        if plan.create is not None:
            note = f"made Workflow {cron_child_name(key[1], plan.create)}"
            await post_event(self._world.kube, obj, "Normal", "Created", note)
        for child in plan.stop:
            note = f"asked Workflow {child.name} to stop"
            await post_event(self._world.kube, obj, "Normal", "Replaced", note)
        for reason, sentence in plan.warnings:
            await post_event(self._world.kube, obj, "Warning", reason, sentence)


def _child(workflow: Json) -> Child:
    meta, status = workflow["metadata"], workflow.get("status") or {}
    finished = status.get("finishedAt")
    return Child(
        name=meta["name"],
        uid=meta["uid"],
        created=parse(meta["creationTimestamp"]),
        phase=WorkflowPhase(status["phase"]) if finished else None,
        finished_at=parse(finished) if finished else None,
        stopping="shutdown" in (workflow.get("spec") or {}),
    )
