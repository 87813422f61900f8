"""From ``--kubeconfig``, ``--context`` and ``--namespace`` to a cluster and a namespace."""

from corral.cli.cluster import Cluster


def connect(
    kubeconfig: str | None, context: str | None, namespace: str | None
) -> tuple[Cluster, str]:
    """The cluster and the namespace meant; calls nobody yet.

    Raises:
        CliError: there is no usable configuration.
    """
    cluster = Cluster.connect(kubeconfig, context)
    return cluster, namespace or cluster.namespace
