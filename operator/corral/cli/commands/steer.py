"""Commands that change a run that goes on."""

from typing import Annotated

import typer

from corral.cli.options import Context, Kubeconfig, Namespace, Plain, TextOrJson, WorkflowName


def stop(
    workflow: WorkflowName,
    terminate: Annotated[
        bool, typer.Option("--terminate", "--now", help="Don't run the onExit steps either.")
    ] = False,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """End a run.

    What runs is cancelled, what has not started does not start.

    \b
    Examples:
      corral stop report
      corral stop report --terminate
    """
    shutdown = "Terminate" if terminate else "Stop"
    fields: dict[str, object] = {"shutdown": shutdown}
    _change(workflow, fields, "is being stopped", namespace, kubeconfig, context, output)


def suspend(
    workflow: WorkflowName,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Let a run start nothing new.

    What runs ends; the rest waits for `corral resume`.

    \b
    Examples:
      corral suspend report
    """
    _change(workflow, {"suspend": True}, "is suspended", namespace, kubeconfig, context, output)


def resume(
    workflow: WorkflowName,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Let a suspended run go on.

    \b
    Examples:
      corral resume report
    """
    _change(workflow, {"suspend": None}, "goes on", namespace, kubeconfig, context, output)


def _change(
    workflow: str,
    fields: dict[str, object],
    said: str,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
    output: TextOrJson,
) -> None:
    from corral.cli.change import change
    from corral.cli.connect import connect

    cluster, where = connect(kubeconfig, context, namespace)
    raise typer.Exit(change(cluster, where, workflow, fields, said, output))
