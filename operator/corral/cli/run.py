"""``corral run`` in a cluster: apply, create, follow."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from corral.cli.cluster import ApiError, Cluster, path_of
from corral.cli.create import CREATED_BY, with_creator
from corral.cli.errors import CliError, Exit
from corral.cli.following import Following
from corral.cli.kinds import CRD_ORDER, WORKFLOW
from corral.cli.output import tidy, write
from corral.cli.parameters import Given
from corral.cli.select import Selection, select
from corral.cli.submit import with_arguments
from corral.cli.view import RunView

_DELETION = 60.0
"""Seconds to wait for a replaced run to go."""


@dataclass(frozen=True)
class Options:
    """The options that a run in a cluster knows."""

    workflow: str | None = None
    name: str | None = None
    generate_name: bool = False
    replace: bool = False
    force_conflicts: bool = False
    namespace: str | None = None
    timeout: float | None = None
    follow: bool = True
    output: str = "tree"
    given: Given = field(default_factory=Given)


def run_in_cluster(connect: Callable[[], Cluster], paths: Sequence[str], options: Options) -> Exit:
    """Starts the Workflow of the files and shows it; the files' problems come first."""
    selection = select(paths, options.workflow, options.given.names)
    cluster = connect()
    namespace = _namespace(selection, options, cluster)
    body = selection.body(
        name=options.name, generate_name=options.generate_name, namespace=namespace
    )
    body = with_arguments(cluster, body, options.given, selection.template)
    _apply_others(cluster, selection, namespace, force=options.force_conflicts)
    started = _start(cluster, with_creator(cluster, body), options)
    name = started["metadata"]["name"]
    if not options.follow:
        if options.output == "tree":
            print(f"workflow.corral.dev/{name} created in namespace {namespace}")
        else:
            write(tidy(started), options.output)
        return Exit.OK
    return Following(cluster, started, options.output, options.timeout).run()


def _namespace(selection: Selection, options: Options, cluster: Cluster) -> str:
    written = selection.workflow.namespace
    if options.namespace and written and written != options.namespace:
        raise CliError(
            f"the Workflow says namespace {written!r}, --namespace {options.namespace!r}",
            Exit.USAGE,
        )
    return options.namespace or written or cluster.namespace


def _apply_others(cluster: Cluster, selection: Selection, namespace: str, *, force: bool) -> None:
    """Applies everything but Workflows; what is referred to first."""
    for document in selection.checked.foreign:
        path = cluster.path_of_foreign(document.data, namespace)
        _apply(cluster, path, document.data, namespace, force)
    for kind in CRD_ORDER:
        for loaded in selection.checked.of(kind):
            where = loaded.namespace or namespace
            path = path_of(loaded.kind, where, loaded.name)
            _apply(cluster, path, loaded.document.data, where, force)


def _apply(cluster: Cluster, path: str, data: dict[str, Any], namespace: str, force: bool) -> None:
    metadata = {
        key: value
        for key, value in data["metadata"].items()
        if key not in ("managedFields", "resourceVersion", "uid", "creationTimestamp")
    }
    if "/namespaces/" in path:
        metadata["namespace"] = metadata.get("namespace", namespace)
    body = {key: value for key, value in data.items() if key != "status"}
    what = f"{data['kind']} {metadata['name']!r}"
    try:
        cluster.apply(path, {**body, "metadata": metadata}, force=force)
    except ApiError as error:
        hint = "; --force-conflicts takes the fields over" if error.status == 409 else ""
        raise CliError(f"{what} was refused: {error.message}{hint}", Exit.REFUSED) from None


def _start(cluster: Cluster, body: dict[str, Any], options: Options) -> dict[str, Any]:
    try:
        return cluster.create(WORKFLOW, body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            what = body["metadata"].get("name") or body["metadata"]["generateName"]
            raise CliError(
                f"Workflow {what!r} was refused: {error.message}", Exit.REFUSED
            ) from None
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    existing = cluster.get(WORKFLOW, namespace, name)
    if options.replace:
        _remove(cluster, existing)
        return cluster.create(WORKFLOW, body)
    view = RunView.of(existing)
    if view.status.started_at is None and not view.finished:
        path = path_of(WORKFLOW, namespace, name)
        return cluster.apply(path, _made_by_whom_it_was(body, existing), force=True)
    phase = view.status.phase.value if view.status.phase else "Pending"
    state = f"has ended ({phase})" if view.finished else f"has started ({phase})"
    raise CliError(
        f"Workflow {name!r} exists in namespace {namespace!r} and {state}; "
        "--generate-name or --name starts another run, --replace deletes this one first",
        Exit.REFUSED,
    )


def _made_by_whom_it_was(body: dict[str, Any], existing: dict[str, Any]) -> dict[str, Any]:
    """Who made a Workflow does not change, whoever edits it."""
    metadata = body["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(CREATED_BY, None)
    made_by = (existing["metadata"].get("annotations") or {}).get(CREATED_BY)
    if made_by is not None:
        annotations[CREATED_BY] = made_by
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def _remove(cluster: Cluster, existing: dict[str, Any]) -> None:
    metadata = existing["metadata"]
    where = (metadata["namespace"], metadata["name"])
    deadline = time.monotonic() + _DELETION
    try:
        cluster.delete(WORKFLOW, *where, uid=metadata["uid"])
        while cluster.get(WORKFLOW, *where)["metadata"]["uid"] == metadata["uid"]:
            if time.monotonic() > deadline:
                raise CliError(f"Workflow {where[1]!r} was deleted, but does not go away")
            time.sleep(0.2)
    except ApiError as error:
        if error.status != 404:
            raise
