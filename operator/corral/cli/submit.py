"""``corral submit``: a Workflow out of a file, a template, a cron or an earlier run."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from corral.api.crd.kinds import Kind
from corral.cli.again import copied
from corral.cli.cluster import Cluster
from corral.cli.create import NewRun, create
from corral.cli.errors import CliError, Exit
from corral.cli.findings import count
from corral.cli.kinds import kind_named
from corral.cli.lookup import object_of
from corral.cli.objects import API_VERSION
from corral.cli.parameters import Given, arguments
from corral.cli.select import Selection, select

_KINDS = ("WorkflowTemplate", "CronWorkflow", "Workflow")


@dataclass(frozen=True)
class Source:
    """What a run is made of: files, or an object of the cluster."""

    paths: list[str]
    of: str | None = None
    workflow: str | None = None
    namespace: str | None = None
    """What ``--namespace`` says."""


def submit(
    connect: Callable[[], tuple[Cluster, str]], source: Source, given: Given, new: NewRun
) -> Exit:
    """Makes the run; what is wrong with the files or the parameters is told before."""
    if bool(source.paths) == bool(source.of):
        raise CliError("either FILEs or --from KIND/NAME say what to run", Exit.USAGE)
    if source.of:
        kind, name = _parsed(source.of)
        cluster, namespace = connect()
        body = _from_object(cluster, namespace, kind, name, given, new)
    else:
        selection = select(source.paths, source.workflow, given.names)
        _say_what_is_left_out(selection)
        cluster, namespace = connect()
        body = _from_file(cluster, _namespace(selection, source, namespace), selection, given, new)
    return create(cluster, body, new)


def _parsed(text: str) -> tuple[Kind, str]:
    word, slash, name = text.partition("/")
    if not slash or not name:
        raise CliError(
            f"--from {text!r}: must be template/NAME, cron/NAME or workflow/NAME", Exit.USAGE
        )
    kind = kind_named(word)
    if kind.name not in _KINDS:
        raise CliError(
            f"--from {text!r}: a {kind.name} is nothing to run; "
            "template/NAME, cron/NAME and workflow/NAME are",
            Exit.USAGE,
        )
    return kind, name


def _from_object(
    cluster: Cluster, namespace: str, kind: Kind, name: str, given: Given, new: NewRun
) -> dict[str, Any]:
    found = object_of(cluster, kind, namespace, name)
    if kind.name == "Workflow":
        body = copied(found, new, namespace)
    else:
        metadata = new.named({"namespace": namespace}, f"{name}-")
        spec = (
            {"workflowTemplateRef": {"name": name}}
            if kind.name == "WorkflowTemplate"
            else dict(found["spec"]["workflowSpec"])
        )
        body = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": metadata, "spec": spec}
    template = found if kind.name == "WorkflowTemplate" else None
    return with_arguments(cluster, body, given, template)


def _namespace(selection: Selection, source: Source, default: str) -> str:
    written = selection.workflow.namespace
    if source.namespace and written and written != source.namespace:
        raise CliError(
            f"the Workflow says namespace {written!r}, --namespace {source.namespace!r}",
            Exit.USAGE,
        )
    return written or default


def _from_file(
    cluster: Cluster, namespace: str, selection: Selection, given: Given, new: NewRun
) -> dict[str, Any]:
    body = selection.body(name=None, generate_name=False, namespace=namespace)
    body["metadata"] = new.named(body["metadata"], None)
    return with_arguments(cluster, body, given, selection.template)


def _say_what_is_left_out(selection: Selection) -> None:
    checked = selection.checked
    others = [loaded for loaded in checked.loaded if loaded.kind.name != "Workflow"]
    number = len(others) + len(checked.foreign)
    if number:
        objects = count(number, "other object")
        print(f"note: {objects} of the files is not sent; corral run applies them", file=sys.stderr)


def with_arguments(
    cluster: Cluster,
    body: dict[str, Any],
    given: Given,
    template: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The Workflow with the arguments given, checked against its template's schema.

    Args:
        template: the WorkflowTemplate, if it is at hand; else it is read from the cluster.

    Raises:
        CliError: there is no such template, or a parameter is wrong.
    """
    spec = body["spec"]
    reference = spec.get("workflowTemplateRef")
    if reference is None:
        if not given:
            return body
        schema, graph = None, spec
    else:
        if template is None:
            kind = kind_named("workflowtemplate")
            namespace = body["metadata"]["namespace"]
            template = object_of(cluster, kind, namespace, reference["name"])
        schema, graph = template["spec"].get("parameters"), template["spec"]
    merged = arguments(given, spec.get("arguments"), schema, graph)
    return {**body, "spec": {**spec, "arguments": merged} if merged else spec}
