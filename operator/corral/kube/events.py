"""Events: what a person looks for with ``kubectl describe`` or ``kubectl events``."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Literal

from corral.kube.client import EVENTS, ApiError, Json, Kube
from corral.plan.names import OPERATOR, digest

log = logging.getLogger(__name__)


_posting: set[asyncio.Task[None]] = set()
_AT_ONCE = 64


async def post_event(
    kube: Kube,
    about: Json,
    kind: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    action: str = "Reconcile",
) -> None:
    """Has an Event posted about an object; the pass does not wait for it.

    What can't be posted is logged and forgotten, as are Events beyond what may be under way.
    """
    if (kind == "Normal" and not kube.events.take()) or len(_posting) >= _AT_ONCE:
        log.info("no Event: %s %s: %s", about["metadata"]["name"], reason, message)
        return
    meta = about["metadata"]
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
