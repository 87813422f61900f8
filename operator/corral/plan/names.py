"""Every name, label and key that corral derives."""

import hashlib
from collections.abc import Mapping
from typing import Any

GROUP = "corral.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
OPERATOR = "corral-operator"

LABEL_AGENT = f"{GROUP}/agent"
LABEL_POOL = f"{GROUP}/pool"
LABEL_CRON = f"{GROUP}/cron"
LABEL_WORKFLOW = f"{GROUP}/workflow"
LABEL_REVISION = f"{GROUP}/revision"
LABEL_SLOT = f"{GROUP}/slot"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "corral"
WORKER_LABELS = {"app.kubernetes.io/component": "worker", LABEL_MANAGED_BY: MANAGED_BY}
WORKER_SELECTOR = ",".join(f"{key}={value}" for key, value in WORKER_LABELS.items())
ANNOTATION_CONFIG = f"{GROUP}/worker-config"
ANNOTATION_IMAGE_REVISION = f"{GROUP}/image-revision"
ANNOTATION_CORRELATION_ID = f"{GROUP}/correlation-id"
ANNOTATION_TRACEPARENT = f"{GROUP}/traceparent"
ANNOTATION_CREATED_BY = f"{GROUP}/created-by"

TOOL_RUNNER = f"{MANAGED_BY}-tools"
"""The Agent and pool, one a namespace, whose workers make the tool calls of ``tool`` steps."""

POOL_NAME_LIMIT = 52


def digest(*parts: object, length: int = 10) -> str:
    """A short, stable hash that is valid in names and label values."""
    text = "\x00".join(str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def correlation_id(workflow: Mapping[str, Any]) -> str:
    """A Workflow's correlation id: its user's, or the run's."""
    annotations = workflow["metadata"].get("annotations") or {}
    return str(annotations.get(ANNOTATION_CORRELATION_ID) or workflow["metadata"]["uid"])


def worker_labels(agent: str, pool: str) -> dict[str, str]:
    """The labels of a pool's pods; also the pool's selector."""
    return {
        "app.kubernetes.io/name": "corral",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/part-of": "corral",
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_AGENT: agent,
        LABEL_POOL: pool,
    }


def made_name(workflow: str, *parts: object) -> str:
    """The name of what a run makes (an ApprovalRequest, a child): the same for the same place."""
    return f"{workflow[:46].rstrip('-.')}-{digest(*parts, length=16)}"


def selector(labels: dict[str, str]) -> str:
    """Labels as a label selector's text."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def pod_name(pool: str, pool_uid: str, revision: str, slot: int, incarnation: int) -> str:
    """The name of a pool's pod: the same for the same place, so that 409 means "made before"."""
    return f"{pool}-{digest(pool_uid, revision, slot, incarnation)}"


def cron_child_name(cron: str, scheduled: float) -> str:
    """The Workflow of a scheduled time: the same for the same minute, so that 409 means "made
    before"."""
    return f"{cron}-{int(scheduled // 60)}"


def default_pool_name(agent: str) -> str:
    """The pool that an Agent without one gets."""
    name = f"{agent}-default"
    if len(name) <= POOL_NAME_LIMIT:
        return name
    return f"{agent[:33].rstrip('-')}-{digest(agent)}-default"
