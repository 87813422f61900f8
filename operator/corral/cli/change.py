"""``corral stop``, ``suspend`` and ``resume``: a merge patch of two fields."""

from corral.cli.cluster import Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.kinds import WORKFLOW
from corral.cli.lookup import workflow_of
from corral.cli.output import tidy, write
from corral.cli.view import RunView


def change(
    cluster: Cluster,
    namespace: str,
    name: str,
    fields: dict[str, object],
    said: str,
    output: str,
) -> Exit:
    """Sets fields of a run's spec; None removes one."""
    view = RunView.of(workflow_of(cluster, namespace, name))
    if view.finished and view.status.phase is not None:
        raise CliError(f"Workflow {name!r} has ended: {view.status.phase.value}")
    changed = cluster.merge(WORKFLOW, namespace, name, {"spec": fields})
    if output == "json":
        write(tidy(changed), "json")
    else:
        print(f"workflow.corral.dev/{name} {said}")
    return Exit.OK
