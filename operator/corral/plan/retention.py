"""When a finished Workflow may be deleted, and who keeps it.

Deleting what a GitOps tool tracks makes it come back: the tool applies it again, it runs again, and
is paid for again, after every ``ttlAfterFinished``. So whatever looks tracked is kept. The marks,
the first that is found counts:

=================================================  ==========
annotations ``argocd.argoproj.io/hook``,           nobody [1]_
``helm.sh/hook``
annotation ``argocd.argoproj.io/tracking-id``      Argo CD [2]_
label ``argocd.argoproj.io/instance``              Argo CD
labels ``kustomize.toolkit.fluxcd.io/name``,       Flux
``helm.toolkit.fluxcd.io/name``
annotation ``meta.helm.sh/release-name``           Helm
label ``app.kubernetes.io/managed-by: Helm``       Helm
label ``app.kubernetes.io/instance``               Argo CD [3]_
=================================================  ==========

.. [1] Hooks are made for one sync, and not missed after it: so failed ones can expire.
.. [2] Unless it names another object: then it came with a copy, and Argo CD does not count it
   either.
.. [3] What Argo CD before 3.0 tracks by. People set it too, and then the object is kept without
   need: that costs little, and an Event says why; the other mistake runs up a bill.
"""

from collections.abc import Mapping
from typing import Any

from corral.api.types import seconds
from corral.plan.times import parse

ARGO_CD, FLUX, HELM = "Argo CD", "Flux", "Helm"
_TRACKING_ID = "argocd.argoproj.io/tracking-id"
_RELEASE = "meta.helm.sh/release-name"
_HOOKS = frozenset({"argocd.argoproj.io/hook", "helm.sh/hook"})
_LABELS = {
    "argocd.argoproj.io/instance": ARGO_CD,
    "kustomize.toolkit.fluxcd.io/name": FLUX,
    "helm.toolkit.fluxcd.io/name": FLUX,
}
_MANAGED_BY = "app.kubernetes.io/managed-by"
_INSTANCE = "app.kubernetes.io/instance"


def tracked_by(obj: Mapping[str, Any]) -> str:
    """The tool that put the object there and would put it there again; empty if none did."""
    metadata = obj.get("metadata") or {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    if _HOOKS & annotations.keys():
        return ""
    if _means(annotations.get(_TRACKING_ID, ""), obj):
        return ARGO_CD
    # Before Helm: Flux' Helm controller leaves Helm's marks too.
    for key, tool in _LABELS.items():
        if key in labels:
            return tool
    if _RELEASE in annotations or labels.get(_MANAGED_BY) == HELM:
        return HELM
    return ARGO_CD if _INSTANCE in labels else ""


def keeper(obj: Mapping[str, Any]) -> str:
    """Who keeps the object, in words that end a sentence: empty if nobody does.

    ``Argo CD, which would make it again``, ``its owner, CronWorkflow nightly``.
    """
    for owner in (obj.get("metadata") or {}).get("ownerReferences") or []:
        return f"its owner, {owner.get('kind')} {owner.get('name')}"
    tool = tracked_by(obj)
    return f"{tool}, which would make it again" if tool else ""


def due(ttl: str | None, finished_at: str | None) -> float | None:
    """When the time of a finished Workflow is over, in seconds since the epoch; None: never.

    ``ttl`` is ``spec.ttlAfterFinished``, ``finished_at`` is ``status.finishedAt``.

    Raises:
        ValueError: one of the texts is not of its form.
    """
    if ttl is None or finished_at is None:
        return None
    return parse(finished_at) + seconds(ttl)


def expiry(ttl: str | None, finished_at: str | None, obj: Mapping[str, Any]) -> float | None:
    """When the Workflow ``obj`` may be deleted, in seconds since the epoch; None: never.

    Never what somebody keeps (``keeper``), nor what is being deleted already. Whoever deletes
    names the UID and the resourceVersion that were judged here: the TTL may have been raised, or
    a tool may have taken the object over, since.

    Raises:
        ValueError: one of the texts is not of its form.
    """
    if keeper(obj) or (obj.get("metadata") or {}).get("deletionTimestamp"):
        return None
    return due(ttl, finished_at)


def _means(tracking_id: str, obj: Mapping[str, Any]) -> bool:
    """Whether ``<application>:<group>/<kind>:<namespace>/<name>`` is about this very object.

    One without a name was made for a ``generateName``; one that can't be read counts, to be safe.
    """
    if not tracking_id:
        return False
    parts = tracking_id.split(":")
    if len(parts) < 3:
        return True
    kind, place = parts[-2], parts[-1]
    metadata = obj.get("metadata") or {}
    group = str(obj.get("apiVersion", "")).partition("/")[0]
    namespace, _, name = place.partition("/")
    return (
        kind == f"{group}/{obj.get('kind')}"
        and namespace in ("", metadata.get("namespace", ""))
        and name in ("", metadata.get("name", ""))
    )
