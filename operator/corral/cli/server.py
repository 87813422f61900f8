"""What the API server says of manifests, asked by a dry run: nothing is changed there."""

from collections.abc import Iterator
from typing import Any

from corral.api.crd.kinds import KINDS
from corral.cli.check import Checked
from corral.cli.cluster import ApiError, Cluster, UnreachableError, path_of
from corral.cli.errors import CliError
from corral.cli.findings import Finding, finding
from corral.cli.manifests import Document, parse_path

_BY_NAME = {kind.name: kind for kind in KINDS}


def add_server_findings(checked: Checked, cluster: Cluster, namespace: str) -> None:
    """Sends every object that could be read, and adds what the server refuses.

    Raises:
        CliError: the server can't be reached.
    """
    documents = [loaded.document for loaded in checked.loaded]
    told = {(found.file, found.document, found.field) for found in checked.problems}
    for document in [*documents, *checked.foreign]:
        for found in _refusals(cluster, document, namespace):
            if (found.file, found.document, found.field) not in told:
                checked.findings.append(found)


def _refusals(cluster: Cluster, document: Document, namespace: str) -> Iterator[Finding]:
    data = document.data
    metadata = {**data["metadata"]}
    for field in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
        metadata.pop(field, None)
    body = {key: value for key, value in data.items() if key != "status"}
    body["metadata"] = metadata
    try:
        _send(cluster, body, namespace)
    except ApiError as error:
        causes = [(field, said) for field, said in error.causes if said] or [("", error.message)]
        for field, said in causes:
            yield finding(document, parse_path(field), f"the API server says: {said}")
    except UnreachableError:
        raise
    except CliError as error:
        yield finding(document, (), f"the API server says: {error.message}")


def _send(cluster: Cluster, body: dict[str, Any], namespace: str) -> None:
    metadata = body["metadata"]
    kind = _BY_NAME.get(body["kind"])
    if kind is None or not str(body["apiVersion"]).startswith("corral.dev/"):
        cluster.apply(cluster.path_of_foreign(body, namespace), body, force=True, dry_run=True)
        return
    where = metadata.setdefault("namespace", namespace)
    if "name" in metadata:
        path = path_of(kind, where, metadata["name"])
        cluster.apply(path, body, force=True, dry_run=True)
    else:
        cluster.create(kind, body, dry_run=True)
