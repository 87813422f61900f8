"""Events: what a person looks for with ``kubectl describe`` or ``kubectl events``."""

import logging
from datetime import UTC, datetime
from typing import Literal

from corral.kube.client import EVENTS, ApiError, Json, Kube
from corral.plan.names import OPERATOR, digest

log = logging.getLogger(__name__)


async def post_event(
    kube: Kube,
    about: Json,
    kind: Literal["Normal", "Warning"],
    reason: str,
    message: str,
    action: str = "Reconcile",
) -> None:
    """Posts an Event about an object; what can't be posted is logged and forgotten."""
    meta = about["metadata"]
    now = datetime.now(UTC)
    body = {
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
    try:
        await kube.create(EVENTS, meta["namespace"], body)
    except ApiError as error:
        log.warning("an Event was not posted: %s", error)
