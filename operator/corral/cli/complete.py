"""What a shell offers for the word that is being typed: names of live objects among others.

A shell waits for it, so the cluster has a second and a half to answer, and whatever goes wrong is
silent: no offer is better than an error in the middle of a line.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

Offer = tuple[str, str]
"""A word, and what it is."""
_TIMEOUT = (0.7, 1.5)
_NO_FILES = 4
"""Cobra's directive, as kubectl reads it."""
_SOURCES = {"template": "workflowtemplate", "cron": "cronworkflow", "workflow": "workflow"}
_KINDS = (
    *("workflows", "workflowtemplates", "cronworkflows", "approvalrequests"),
    *("agents", "agentpools", "models"),
)


def _offered(find: Callable[[Any], Sequence[Offer]]) -> Callable[[typer.Context, str], list[Offer]]:
    """Those of what was found that begin as the word does; none where anything goes wrong."""

    @functools.wraps(find)
    def offers(ctx: typer.Context, incomplete: str) -> list[Offer]:
        try:
            found = find(ctx)
        except Exception:
            return []
        return [offer for offer in found if offer[0].startswith(incomplete)]

    # typer reads the signature of what it calls.
    del offers.__wrapped__
    offers.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    return offers


def _cluster(ctx: typer.Context) -> tuple[Any, str]:
    from corral.cli.cluster import Cluster

    options = ctx.params
    cluster = Cluster.connect(options.get("kubeconfig"), options.get("context"), _TIMEOUT)
    return cluster, options.get("namespace") or cluster.namespace


def _before(ctx: typer.Context, argument: str) -> str:
    """An argument that stands before the word; while an option lacks its value it is not parsed."""
    return str(ctx.params.get(argument) or ctx.args[0])


def _listed(ctx: typer.Context, kind: str) -> list[Offer]:
    from corral.cli.cluster import path_of
    from corral.cli.kinds import kind_named

    cluster, namespace = _cluster(ctx)
    summaries: list[Offer] = cluster.summaries(path_of(kind_named(kind), namespace))
    return summaries


@_offered
def namespaces(ctx: typer.Context) -> list[Offer]:
    """The cluster's namespaces."""
    cluster, _ = _cluster(ctx)
    return [(name, "") for name, _ in cluster.summaries("/api/v1/namespaces")]


@_offered
def contexts(ctx: typer.Context) -> list[Offer]:
    """The kubeconfig's contexts."""
    from kubernetes import config

    listed: Any = config.list_kube_config_contexts
    found, _ = listed(ctx.params.get("kubeconfig"))
    return [(context["name"], context.get("context", {}).get("cluster", "")) for context in found]


@_offered
def kinds(ctx: typer.Context) -> list[Offer]:
    """The kinds that ``corral get`` knows."""
    return [(kind, "") for kind in _KINDS]


@_offered
def objects(ctx: typer.Context) -> list[Offer]:
    """Objects of the kind that stands before."""
    return _listed(ctx, ctx.params.get("kind") or "workflows")


@_offered
def workflows(ctx: typer.Context) -> list[Offer]:
    """Workflows, with their phases."""
    return _listed(ctx, "workflow")


@_offered
def retriable(ctx: typer.Context) -> list[Offer]:
    """Workflows that Failed or were Stopped."""
    return [offer for offer in _listed(ctx, "workflow") if offer[1] in ("Failed", "Stopped")]


@_offered
def sources(ctx: typer.Context) -> list[Offer]:
    """What ``submit --from`` takes: ``template/NAME`` and the like."""
    return [
        (f"{word}/{name}", word)
        for word, kind in _SOURCES.items()
        for name, _ in _listed(ctx, kind)
    ]


@_offered
def undecided(ctx: typer.Context) -> list[Offer]:
    """Workflows that wait for a person."""
    from corral.cli.kinds import kind_named

    cluster, namespace = _cluster(ctx)
    requests = cluster.objects(kind_named("approvalrequest"), namespace)
    found: dict[str, str] = {}
    for request in requests:
        spec = request.get("spec", {})
        if "decision" not in spec:
            found.setdefault(spec["workflowRef"]["name"], spec.get("step", ""))
    return list(found.items())


@_offered
def steps(ctx: typer.Context) -> list[Offer]:
    """The steps of the Workflow that stands before, with their phases."""
    from corral.cli.kinds import WORKFLOW

    cluster, namespace = _cluster(ctx)
    found = cluster.get(WORKFLOW, namespace, _before(ctx, "workflow"))
    rows = found.get("status", {}).get("steps") or found.get("spec", {}).get("steps") or []
    return [(row["name"], row.get("phase", "")) for row in rows]


@_offered
def parameters(ctx: typer.Context) -> list[Offer]:
    """``NAME=`` of the parameters of the template that stands before."""
    from corral.cli.kinds import kind_named

    cluster, namespace = _cluster(ctx)
    kind, _, name = (ctx.params.get("source") or "").partition("/")
    if kind == "template" or kind.startswith("workflowtemplate"):
        found = cluster.get(kind_named(kind), namespace, name)
        properties = found["spec"].get("parameters", {}).get("properties", {})
        return [(f"{name}=", schema.get("description", "")) for name, schema in properties.items()]
    found = cluster.get(kind_named(kind or "workflow"), namespace, name or _before(ctx, "workflow"))
    spec = found["spec"].get("workflowSpec", found["spec"])
    return [(f"{name}=", "") for name in spec.get("arguments", {})]


def script(shell: str) -> str:
    """What the shell has to read."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name="corral", complete_var="_CORRAL_COMPLETE", shell=shell)


def prepare() -> None:
    """Lets the program answer a shell's question, if that is why it was started."""
    if any(name.endswith("CORRAL_COMPLETE") for name in os.environ):
        from typer._completion_classes import completion_init

        completion_init()


def kubectl() -> int:
    """``kubectl_complete-corral``: kubectl asks it for the words after ``kubectl corral``."""
    from typer._completion_classes import BashComplete

    from corral.cli.app import app

    *words, incomplete = sys.argv[1:] or [""]
    asked = BashComplete(typer.main.get_command(app), {}, "corral", "_CORRAL_COMPLETE")
    for offer in asked.get_completions(words, incomplete):
        print(f"{offer.value}\t{offer.help}" if offer.help else offer.value)
    print(f":{_NO_FILES}")
    return 0
