"""``corral retry`` and ``corral resubmit``: a new Workflow out of an old one."""

from typing import Any

from corral.api.workflow import WorkflowPhase
from corral.cli.cluster import Cluster
from corral.cli.create import NewRun, create
from corral.cli.errors import CliError, Exit
from corral.cli.lookup import workflow_of
from corral.cli.objects import API_VERSION
from corral.cli.parameters import Given
from corral.cli.view import RunView

_NOT_COPIED = (
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "meta.helm.sh/",
    "kubectl.kubernetes.io/",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "corral.dev/",
)
"""Of others' tools: a copy that claims to be theirs would be pruned. Of ours: about that run."""
_COPIED = ("corral.dev/correlation-id",)
_OF_ONE_RUN = ("suspend", "shutdown", "retryOf")


def copied(found: dict[str, Any], new: NewRun, namespace: str) -> dict[str, Any]:
    """A Workflow of the same spec, labels and annotations."""
    old = found["metadata"]
    metadata: dict[str, Any] = {"namespace": namespace}
    for field in ("labels", "annotations"):
        kept = {
            key: value
            for key, value in (old.get(field) or {}).items()
            if key in _COPIED or not key.startswith(_NOT_COPIED)
        }
        if kept:
            metadata[field] = kept
    prefix = old.get("generateName") or f"{old['name']}-"
    spec = {key: value for key, value in found["spec"].items() if key not in _OF_ONE_RUN}
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": new.named(metadata, prefix),
        "spec": spec,
    }


def retry(cluster: Cluster, namespace: str, name: str, new: NewRun) -> Exit:
    """Takes the succeeded steps over.

    Raises:
        CliError: the run goes on, or has nothing to be done again.
    """
    found = workflow_of(cluster, namespace, name)
    view = RunView.of(found)
    if not view.finished:
        phase = (view.status.phase or WorkflowPhase.PENDING).value
        raise CliError(
            f"Workflow {name!r} has not ended ({phase}); corral stop {name} ends it, "
            "then it can be retried"
        )
    if view.status.phase is WorkflowPhase.SUCCEEDED:
        raise CliError(
            f"Workflow {name!r} has Succeeded: there is nothing to retry; "
            f"corral resubmit {name} runs it again from the beginning"
        )
    body = copied(found, new, namespace)
    body["spec"]["retryOf"] = {"name": name}
    return create(cluster, body, new)


def resubmit(cluster: Cluster, namespace: str, name: str, given: Given, new: NewRun) -> Exit:
    """Begins from the beginning, with other arguments where some are given."""
    from corral.cli.submit import with_arguments

    found = workflow_of(cluster, namespace, name)
    body = copied(found, new, namespace)
    return create(cluster, with_arguments(cluster, body, given), new)
