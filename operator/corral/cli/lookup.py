"""Objects by name; where there is none of that name, the nearest is suggested."""

from typing import Any

from corral.api.crd.kinds import Kind
from corral.cli.cluster import ApiError, Cluster, path_of
from corral.cli.errors import CliError
from corral.cli.kinds import WORKFLOW
from corral.cli.words import similar


def object_of(cluster: Cluster, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
    """The object.

    Raises:
        CliError: there is none, or the cluster says no.
    """
    try:
        return cluster.get(kind, namespace, name)
    except ApiError as error:
        if error.status == 404 and error.details.get("name"):
            hint = similar(name, _names(cluster, kind, namespace))
            raise CliError(
                f"there is no {kind.name} {name!r} in namespace {namespace!r}{hint}"
            ) from None
        raise


def workflow_of(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """The Workflow; errors as of ``object_of``."""
    return object_of(cluster, WORKFLOW, namespace, name)


def _names(cluster: Cluster, kind: Kind, namespace: str) -> list[str]:
    try:
        return [name for name, _ in cluster.summaries(path_of(kind, namespace))]
    except CliError:
        return []
