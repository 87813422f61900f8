"""Deletes finished Workflows whose ``ttlAfterFinished`` is over."""

from corral.api.workflow import WorkflowSpec
from corral.kube.client import WORKFLOWS, Json
from corral.kube.events import post_event
from corral.plan.keys import WorkflowKey
from corral.plan.retention import expiry, keeper
from corral.reconcile.world import World

DELETION_PERIOD = 0.1
"""Seconds between two deletions: a thousand that are due at once load the API server evenly."""


class Retirement:
    """When which run goes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._spared: set[str] = set()
        """UIDs of Workflows of which it was told that somebody keeps them."""
        self._next = 0.0

    def forget(self, uid: str) -> None:
        """The Workflow is gone."""
        self._spared.discard(uid)

    async def look(self, key: WorkflowKey, obj: Json, spec: WorkflowSpec) -> None:
        """Deletes a finished run if its time is over, or asks to be called again then.

        Raises:
            ApiError: the API server refused.
        """
        finished_at = (obj.get("status") or {}).get("finishedAt")
        due = expiry(spec.ttl_after_finished, finished_at, obj)
        if due is None:
            await self._tell(obj, spec)
            return
        now = self._world.kube.now()
        if (wait := max(due, self._next) - now) > 0:
            self._world.wake.workflow(key, wait)
            return
        self._next = now + DELETION_PERIOD
        meta = obj["metadata"]
        await self._world.kube.delete(WORKFLOWS, *key, meta["uid"], version=meta["resourceVersion"])

    async def _tell(self, obj: Json, spec: WorkflowSpec) -> None:
        uid, by = obj["metadata"]["uid"], keeper(obj)
        if by and spec.ttl_after_finished and uid not in self._spared:
            self._spared.add(uid)
            why = f"ttlAfterFinished does nothing: the Workflow is kept by {by}"
            await post_event(self._world.kube, obj, "Normal", "NotDeleted", why)
