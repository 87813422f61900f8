"""Making one new Workflow in a cluster: its name, who made it, and what is shown of it."""

from dataclasses import dataclass
from typing import Any

from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.following import Following
from corral.cli.kinds import WORKFLOW
from corral.cli.output import tidy, write

CREATED_BY = "corral.dev/created-by"
"""The annotation that says who made a Workflow: who may approve what it waits for hangs on it."""
_PREFIX = 57
"""Characters of a generateName: five more have to fit into a label's value."""


@dataclass(frozen=True)
class NewRun:
    """How the new run is called, and what to do once it is there."""

    name: str | None = None
    prefix: str | None = None
    watch: bool = False
    wait: bool = False
    timeout: float | None = None
    dry_run: str | None = None
    """``client``, ``server``, or None: make it."""
    output: str = "tree"

    def __post_init__(self) -> None:
        if self.name and self.prefix:
            raise CliError("--name and --generate-name exclude each other", Exit.USAGE)
        if self.watch and self.wait:
            raise CliError("--watch and --wait exclude each other", Exit.USAGE)
        if self.dry_run and (self.watch or self.wait):
            raise CliError("there is nothing to wait for in a --dry-run", Exit.USAGE)
        if self.timeout is not None and not (self.watch or self.wait):
            raise CliError("--timeout needs --watch or --wait", Exit.USAGE)

    def named(self, metadata: dict[str, Any], prefix: str | None) -> dict[str, Any]:
        """Metadata with the name asked for; else one that begins so; else as it is."""
        plain = {k: v for k, v in metadata.items() if k not in ("name", "generateName")}
        if self.name:
            return {"name": self.name, **plain}
        prefix = self.prefix or prefix
        return {"generateName": prefix[:_PREFIX], **plain} if prefix else metadata


def with_creator(cluster: Cluster, body: dict[str, Any]) -> dict[str, Any]:
    """The Workflow with the annotation that says who makes it, unless it has one."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    if CREATED_BY in annotations or (name := cluster.username()) is None:
        return body
    return {**body, "metadata": {**metadata, "annotations": {**annotations, CREATED_BY: name}}}


def create(cluster: Cluster, body: dict[str, Any], new: NewRun) -> Exit:
    """Sends the Workflow, and shows what ``new`` asks for.

    Raises:
        CliError: the API server refused it; exit code 4.
    """
    if new.dry_run == "client":
        return _show(body, new, " (dry run)")
    what = body["metadata"].get("name") or body["metadata"]["generateName"]
    try:
        made = cluster.create(
            WORKFLOW, with_creator(cluster, body), dry_run=new.dry_run == "server"
        )
    except ApiError as error:
        said = error.message
        if error.reason == "AlreadyExists":
            where = body["metadata"]["namespace"]
            said = f"there is one of that name in namespace {where!r}; choose another by --name"
        raise CliError(f"Workflow {what!r} was refused: {said}", Exit.REFUSED) from None
    if new.dry_run:
        return _show(made, new, " (server dry run)")
    if not (new.watch or new.wait):
        return _show(made, new, "")
    return Following(cluster, made, new.output, new.timeout, quiet=new.wait).run()


def _show(data: dict[str, Any], new: NewRun, mark: str) -> Exit:
    metadata = data["metadata"]
    name = metadata.get("name") or f"{metadata['generateName']}…"
    match new.output:
        case "tree":
            print(f"workflow.corral.dev/{name} created in namespace {metadata['namespace']}{mark}")
        case "name":
            print(f"workflow.corral.dev/{name}")
        case form:
            write(tidy(data), form)
    return Exit.OK
