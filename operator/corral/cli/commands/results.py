"""Commands that show what runs came to, and what they cost."""

from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.errors import CliError, Exit
from corral.cli.options import (
    OPERATOR_NAMESPACE,
    Context,
    CostForm,
    Kubeconfig,
    Namespace,
    OperatorNamespace,
    WorkflowName,
)


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
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
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


def cost(
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="KEY",
            help="agent (the default), workflow, template, namespace, model, provider, step, "
            "purpose, outcome, cron, parent; several with commas; or attempt: every row.",
        ),
    ] = None,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="7d, 12h, or 2026-11-01 (UTC).")
    ] = "30d",
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="As --since; else now.")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Of this Agent only.")] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="Of Workflows of this name only.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", help="Of runs of this WorkflowTemplate only.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Of this model of a provider only.")
    ] = None,
    output: Annotated[
        CostForm, typer.Option("-o", "--output", help="The form of the output.")
    ] = CostForm.TABLE,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Write it there.")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Of all namespaces.")
    ] = False,
    operator_namespace: OperatorNamespace = OPERATOR_NAMESPACE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what was spent, from the operator's ledger.

    It has what Workflows cost that are gone, too. What has no known price has no cost, and is
    counted. -o focus writes every attempt in the columns of FOCUS 1.2. Exit code 0: shown, 1: the
    ledger can't be had.

    \b
    Examples:
      corral cost
      corral cost --by workflow --since 7d
      corral cost --by agent,model --since 2026-11-01 --until 2026-12-01 -A
      corral cost --by attempt --workflow report -o csv
      corral cost -A -o focus --file november.csv
    """
    import time

    from corral.cli.connect import connect
    from corral.cli.cost import Wanted, keys_of, moment
    from corral.cli.cost import cost as run

    now = time.time()
    keys = keys_of(by or ["agent"])
    begin, end = moment("--since", since, now), moment("--until", until or "0s", now)
    if begin >= end:
        raise CliError("--since is not before --until", Exit.USAGE)
    filters = {"agent": agent, "workflow": workflow, "template": template, "model": model}
    only = {key: value for key, value in filters.items() if value is not None}
    cluster, where = connect(kubeconfig, context, namespace)
    within = None if all_namespaces else where
    wanted = Wanted(keys, within, begin, end, only, output, file, operator_namespace)
    raise typer.Exit(run(cluster, wanted))
