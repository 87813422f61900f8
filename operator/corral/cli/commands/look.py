"""Commands that show what is there and what happens."""

import re
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.errors import CliError, Exit
from corral.cli.options import (
    Context,
    GetForm,
    Kubeconfig,
    Namespace,
    Plain,
    TextOrJson,
    Timeout,
    TraceForm,
    WorkflowName,
    limit_of,
)


def get(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="workflows (cwf), workflowtemplates (cwft), cronworkflows (ccron), "
            "approvalrequests (capproval), agents, agentpools or models; KIND/NAME works too.",
            autocompletion=complete.kinds,
        ),
    ] = "workflows",
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One object.", autocompletion=complete.objects),
    ] = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Of all namespaces.")
    ] = False,
    selector: Annotated[
        str | None, typer.Option("-l", "--selector", help="Only with these labels: team=red.")
    ] = None,
    output: Annotated[
        GetForm, typer.Option("-o", "--output", help="tree is for one Workflow.")
    ] = GetForm.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show objects, or a run as a tree.

    \b
    Examples:
      corral get
      corral get agents -A -o wide
      corral get workflow report -o tree
      corral get workflow/report -o json
      corral get templates -o name
    """
    from corral.cli.connect import connect
    from corral.cli.get import get as run

    cluster, where = connect(kubeconfig, context, namespace)
    raise typer.Exit(run(cluster, kind, name, None if all_namespaces else where, output, selector))


def watch(
    workflow: WorkflowName,
    timeout: Timeout = None,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show a run until it ends.

    On a terminal as a tree that changes, else a line per change. -o json prints the Workflow as
    one line of JSON, at first and at every change. Exit codes are those of corral run: 0 Succeeded,
    1 Failed, 3 Stopped, 4 Stalled, 5 --timeout, 130 Ctrl-C (the run goes on).

    \b
    Examples:
      corral watch report
      corral watch report --timeout 10m
      corral watch report -o json | jq -r .status.progress
    """
    from corral.cli.connect import connect
    from corral.cli.following import Following
    from corral.cli.lookup import workflow_of

    limit = limit_of(timeout)
    cluster, where = connect(kubeconfig, context, namespace)
    found = workflow_of(cluster, where, workflow)
    form = "lines" if output is TextOrJson.JSON else "tree"
    raise typer.Exit(Following(cluster, found, form, limit).run())


def logs(
    workflow: WorkflowName,
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            help="Only this step; of nested ones outer, outer.inner or outer[3].inner.",
            autocompletion=complete.steps,
        ),
    ] = None,
    item: Annotated[
        int | None, typer.Option("--item", min=0, help="Only this item of a fan-out, from 0.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Only this attempt, from 1.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the run ends.")
    ] = False,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what happened in a run, attempt by attempt.

    Events, attempts, times, errors and outputs, and the log lines of workers that still exist. With
    -f -o json every entry is one line of JSON.

    \b
    Examples:
      corral logs report
      corral logs report --step research --item 2
      corral logs report --step research --item 2 --attempt 1
      corral logs -f report
      corral logs report -o json
    """
    from corral.cli.connect import connect
    from corral.cli.history import Filter
    from corral.cli.logs import logs as run

    for option, value in (("--item", item), ("--attempt", attempt)):
        if value is not None and step is None:
            raise CliError(f"{option} needs --step", Exit.USAGE)
    cluster, where = connect(kubeconfig, context, namespace)
    raise typer.Exit(run(cluster, where, workflow, Filter(step, item, attempt), follow, output))


def trace(
    workflow: Annotated[
        str | None,
        typer.Argument(
            metavar="WORKFLOW", help="The Workflow's name.", autocompletion=complete.workflows
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL|FILE",
            envvar="CORRAL_TRACE_STORE",
            help="Jaeger's or Tempo's address, a file of OTLP JSON, or - for stdin; "
            "empty: status alone.",
        ),
    ] = None,
    trace_id: Annotated[
        str | None,
        typer.Option(
            "--trace-id", metavar="ID", help="All of this trace of the store, not a Workflow's."
        ),
    ] = None,
    output: Annotated[
        TraceForm, typer.Option("-o", "--output", help="json is OTLP JSON.")
    ] = TraceForm.TABLE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what a run did and when, as a waterfall of spans.

    Status alone knows the run, its steps and its last attempts. A store of traces that the operator
    exports to also has every call of a model or a tool with its cost, and what other services
    added. Headers for it: CORRAL_TRACE_STORE_HEADERS, as in OTEL_EXPORTER_OTLP_HEADERS. Exit code
    0: shown, 1: there is no such run or trace, or the store can't be had.

    \b
    Examples:
      corral trace report
      corral trace report --store http://jaeger:16686
      corral trace --store http://tempo:3200 --trace-id 4bf92f3577b34da6a3ce929d0e0e4736
      corral trace report --store spans.jsonl
      corral trace report -o json > report.json
    """
    from corral.cli.connect import connect
    from corral.cli.trace import Wanted
    from corral.cli.trace import trace as run

    if workflow is not None and trace_id is not None:
        raise CliError("a WORKFLOW has its own trace: leave out --trace-id", Exit.USAGE)
    if trace_id is not None:
        trace_id = trace_id.lower()
        if not re.fullmatch(r"[0-9a-f]{32}", trace_id):
            raise CliError(f"--trace-id: {trace_id!r} is not 32 hexadecimal digits", Exit.USAGE)
    wanted = Wanted(store or None, trace_id, output)
    raise typer.Exit(run(lambda: connect(kubeconfig, context, namespace), workflow, wanted))
