"""Events: what a person looks for with ``kubectl describe`` or ``kubectl events``."""

import asyncio
import logging
from datetime import UTC, datetime
from time import monotonic
from typing import Literal

from corral.kube.client import EVENTS, ApiError, Json, Kube
from corral.plan.names import OPERATOR, digest

log = logging.getLogger(__name__)

ROUTINE_BURST = 5.0
ROUTINE_PER_SECOND = 0.5
_AT_ONCE = 64
_posting: set[asyncio.Task[None]] = set()


class Ration:
    """Which Events of routine are posted: per namespace a few at once, refilled over time.

    One run tells its story; of a thousand at once it would cost a third of all writes, and bury
    the warnings.
    """

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        """By namespace: how many are left, and when that was."""

    def take(self, namespace: str) -> bool:
        """Whether one more may be posted now."""
        now = monotonic()
        left, at = self._left.get(namespace, (ROUTINE_BURST, now))
        left = min(ROUTINE_BURST, left + (now - at) * ROUTINE_PER_SECOND)
        self._left[namespace] = (max(left - 1, 0) if left >= 1 else left, now)
        return left >= 1


_ration = Ration()


async def post_event(
    kube: Kube,
    about: Json,
    kind: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    action: str = "Reconcile",
    routine: bool = False,
) -> None:
    """Has an Event posted about an object; the pass does not wait for it.

    What can't be posted is logged and forgotten, as are Events beyond what may be under way, and
    those of routine (what every run goes through) beyond their ration.
    """
    meta = about["metadata"]
    if (routine and not _ration.take(meta["namespace"])) or len(_posting) >= _AT_ONCE:
        log.debug("no Event: %s %s: %s", meta["name"], reason, message)
        return
    now = datetime.now(UTC)
    body: Json = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta['name'][:200]}.{digest(meta['uid'], reason, message, now.timestamp())}",
            "namespace": meta["namespace"],
        },
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": "corral.dev/operator",
        "reportingInstance": OPERATOR,
        "action": action,
        "type": kind,
        "reason": reason,
        "note": message[:1024],
        "regarding": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
    }

    async def post() -> None:
        try:
            await kube.create(EVENTS, body["metadata"]["namespace"], body)
        except ApiError as error:
            log.warning("an Event was not posted: %s", error)

    task = asyncio.create_task(post(), name=f"event {reason}")
    _posting.add(task)
    task.add_done_callback(_posting.discard)
