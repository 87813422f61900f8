"""Objects that the operator makes on behalf of others: deleted with them, and marked as its own."""

from collections.abc import Sequence

from corral.kube.client import Json
from corral.plan.names import API_VERSION, LABEL_MANAGED_BY, MANAGED_BY


def owned_object(
    owner: Json, kind: str, name: str, label: str, handed_on: Sequence[str], spec: Json
) -> Json:
    """An object that belongs to ``owner``, in its namespace.

    The owner's labels are not copied: a GitOps controller would take the object for one of its own,
    and delete it.

    Args:
        label: that has the owner's name.
        handed_on: annotations that it has from its owner.
    """
    meta = owner["metadata"]
    known = meta.get("annotations") or {}
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {
                "app.kubernetes.io/name": "corral",
                "app.kubernetes.io/part-of": "corral",
                LABEL_MANAGED_BY: MANAGED_BY,
                label: meta["name"],
            },
            "annotations": {key: known[key] for key in handed_on if key in known},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": owner["kind"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": spec,
    }
