"""Commands that look at files, or write them."""

from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import (
    Context,
    Files,
    GraphForm,
    Kubeconfig,
    Namespace,
    Plain,
    Recursive,
    TextOrJson,
)


def validate(
    paths: Files,
    recursive: Recursive = False,
    server: Annotated[
        bool, typer.Option("--server", help="Ask the API server too; nothing is changed there.")
    ] = False,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Check manifests without a cluster.

    As strictly as the API server and corral would do it. Problems are printed as
    FILE:LINE: Kind/name: field: message. Exit code 0: valid, 1: problems, 2: a file can't be read.
    With --server every object is sent as a dry run, so that the cluster's own rules and your rights
    count as well.

    \b
    Examples:
      corral validate team.yaml workflow.yaml
      corral validate manifests/samples/research-team
      corral validate -R manifests/samples
      corral validate --server -n demo workflow.yaml
      kubectl get workflow report -o yaml | corral validate -
      corral validate -o json .
    """
    from corral.cli.validate import validate as run

    connected = None
    if server:
        from corral.cli.connect import connect

        connected = connect(kubeconfig, context, namespace)
    raise typer.Exit(run(paths, output, recursive=recursive, server=connected))


def fmt(
    paths: Files,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; name the files that would change.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Change nothing; print what would change.")
    ] = False,
    recursive: Recursive = False,
    output: Plain = TextOrJson.TEXT,
) -> None:
    """Put the steps of manifests in order.

    Every step comes after those that it depends on, and the keys of a step come in the reference's
    order. Comments, quotes and line breaks stay as they are, and so does what the files mean. Of
    stdin (-) the result is printed. Exit code 0: done, or nothing to do; 1: with --check or --diff
    something would change, or a file is no YAML; 2: a file can't be read.

    \b
    Examples:
      corral fmt workflow.yaml
      corral fmt -R --check manifests
      corral fmt --diff workflow.yaml
    """
    from corral.cli.fmt import fmt as run

    raise typer.Exit(run(paths, check=check, diff=diff, recursive=recursive, output=output))


def graph(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|WORKFLOW",
            help="A file (- for stdin), or the name of a Workflow in the cluster; TYPE/NAME of a "
            "template or cron.",
            autocompletion=complete.workflows,
        ),
    ],
    output: Annotated[
        GraphForm, typer.Option("-o", "--output", help="The language of the drawing.")
    ] = GraphForm.MERMAID,
    status: Annotated[
        bool | None,
        typer.Option("--status/--no-status", help="Colours by phase; on for one in the cluster."),
    ] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="Which one, if the file has several.")
    ] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Draw a Workflow's graph, as Mermaid or DOT.

    Fan-outs, loops, approvals and trigger rules are told by shapes and labels, nested steps are
    boxes.

    \b
    Examples:
      corral graph workflow.yaml
      corral graph workflow.yaml -o dot | dot -Tsvg > workflow.svg
      corral graph report --status
      corral graph template/report
    """
    from corral.cli.graph import Wanted
    from corral.cli.graph import graph as run

    def connected() -> object:
        from corral.cli.connect import connect

        return connect(kubeconfig, context, namespace)

    raise typer.Exit(run(source, Wanted(output, status, workflow), connected))
