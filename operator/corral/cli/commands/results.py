"""Commands that show what a run came to."""

from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.errors import CliError, Exit
from corral.cli.options import Context, Kubeconfig, Namespace, WorkflowName


def output(
    workflow: WorkflowName,
    step: Annotated[
        str | None,
        typer.Option(
            "--step",
            help="This step's; of nested ones outer.inner or outer[3].inner.",
            autocompletion=complete.steps,
        ),
    ] = None,
    item: Annotated[
        int | None, typer.Option("--item", min=0, help="Of this item of a fan-out, from 0.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="json|raw|FILE", help="JSON, as it is, or into a file."
        ),
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option("--operator-namespace", help="Where the operator is.")
    ] = "corral-system",
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print a run's output, or a step's, whole.

    Large ones are fetched from the artifact store, through the API server and the operator. Texts
    are printed as texts, all else as JSON; a fan-out without --item as the list of the outputs of
    its items that succeeded. Exit code 0: printed, 1: there is none, or it can't be had.

    \b
    Examples:
      corral output report
      corral output report --step research --item 2
      corral output report -o json | jq .findings
      corral output report -o report.md
    """
    from corral.cli.artifact import Wanted
    from corral.cli.artifact import output as run
    from corral.cli.connect import connect

    if item is not None and step is None:
        raise CliError("--item needs --step", Exit.USAGE)
    cluster, where = connect(kubeconfig, context, namespace)
    wanted = Wanted(step, item, form, operator_namespace)
    raise typer.Exit(run(cluster, where, workflow, wanted))
