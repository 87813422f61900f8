"""Why worker pods do not start, and why they ended, in sentences for people."""

import logging

from corral.dispatch.client import RefusedError, WorkerUnreachableError
from corral.kube.client import CORE_EVENTS, ApiError, Json
from corral.plan.pool import PodView
from corral.reconcile.following import worker_of
from corral.reconcile.store import ObjectKey
from corral.reconcile.world import World

log = logging.getLogger(__name__)

START_PATIENCE = 8.0
"""Seconds after which a pod that is not ready is asked why."""


class PodProblems:
    """What keeps pods from starting, by pod UID."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._found: dict[str, str] = {}

    def of(self, uid: str) -> str:
        """Why a pod does not start; empty while it may merely need more time."""
        return self._found.get(uid, "")

    async def look(self, key: ObjectKey, pods: list[PodView]) -> None:
        """Finds out why pods do not start, once they have had their time."""
        now = self._world.kube.now()
        for uid in [uid for uid in self._found if self._world.pods.by_uid(uid) is None]:
            del self._found[uid]
        for pod in pods:
            if pod.ready or pod.ended or pod.deleting:
                self._found.pop(pod.uid, None)
                continue
            raw = self._world.pods.by_uid(pod.uid)
            if raw is None:
                continue
            found = waiting_reason(raw)
            if not found and now - pod.created >= START_PATIENCE:
                found = await self._ask(key, raw)
            if found:
                self._found[pod.uid] = f"pod {pod.name} can't start: {found}"[:512]
            self._world.wake.pool(key, 2.0 if now - pod.created < 60 else 10.0)

    async def _ask(self, key: ObjectKey, pod: Json) -> str:
        """The worker's own word where it runs, else the kubelet's and the scheduler's Events."""
        if (pod.get("status") or {}).get("podIP"):
            try:
                inventory = await self._world.worker.inventory(worker_of(pod))
                if inventory.problem:
                    return inventory.problem
            except (RefusedError, WorkerUnreachableError, ApiError) as error:
                log.info("%s does not say why it is not ready: %s", pod["metadata"]["name"], error)
        events = await self._world.kube.list(
            CORE_EVENTS, key[0], fields=f"involvedObject.uid={pod['metadata']['uid']},type=Warning"
        )
        events.sort(key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))
        if events:
            return f"{events[-1].get('reason')}: {events[-1].get('message', '')}"
        return "it is not ready yet, and nobody says why"


def waiting_reason(pod: Json) -> str:
    """What the kubelet says of a container that can't start; empty while it merely starts."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return f"{reason}: {waiting.get('message', '')}".removesuffix(": ")
    for found in (pod.get("status") or {}).get("conditions") or []:
        if found["type"] == "PodScheduled" and found.get("reason") == "Unschedulable":
            return f"Unschedulable: {found.get('message', '')}"
    return ""


def end_of(pod: Json) -> str:
    """Why a pod ended; empty where it ended well."""
    status = pod.get("status") or {}
    if status.get("phase") != "Failed":
        return ""
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended:
            lines = str(ended.get("message") or "").strip().splitlines()
            tail = f": {lines[-1][:300]}" if lines else ""
            return (
                f"pod {pod['metadata']['name']} ended with exit code {ended.get('exitCode')} "
                f"({ended.get('reason')}){tail}"
            )
    return f"pod {pod['metadata']['name']} failed: {status.get('reason', 'unknown')}"
