"""Commands that show what is there and what happens."""

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
