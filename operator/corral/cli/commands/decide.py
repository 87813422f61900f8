"""Commands by which a person decides what a run waits for."""

from dataclasses import dataclass
from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import Context, Kubeconfig, Namespace, Plain, TextOrJson

What = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A Workflow that waits for a decision, or an ApprovalRequest.",
        autocompletion=complete.undecided,
    ),
]
StepOption = Annotated[
    str | None, typer.Option("--step", help="Which step, if several of the Workflow wait.")
]
Comment = Annotated[
    str | None, typer.Option("-m", "--comment", help="Why; later steps may read it.")
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=TEXT", help="A value that the request lets you set. May be repeated."
    ),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Don't ask.")]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Only ask the API server whether you may.")
]


def approve(
    name: What,
    step: StepOption = None,
    comment: Comment = None,
    values: Values = None,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Approve what a run waits for.

    Shows the question (for a tool's call the tool and its arguments too) and asks before it
    decides; without a terminal --yes is needed. You decide as whoever you are to the cluster. Exit
    code 0: decided, 1: there is nothing to decide, or you said no, 2: it is not clear which, 4:
    refused.

    \b
    Examples:
      corral approve report
      corral approve report --step review --comment "Numbers checked." --set title=Q3
      corral approve report --yes --dry-run
    """
    asked = Asked("Approve", step, comment, values, yes, dry_run, output)
    _decide(name, asked, namespace, kubeconfig, context)


def reject(
    name: What,
    step: StepOption = None,
    comment: Comment = None,
    values: Values = None,
    yes: Yes = False,
    dry_run: DryRunFlag = False,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Reject what a run waits for.

    As corral approve, with the other verdict; what then becomes of the run its onReject says.

    \b
    Examples:
      corral reject report --comment "The second source is wrong."
      corral reject report --step review --yes
    """
    asked = Asked("Reject", step, comment, values, yes, dry_run, output)
    _decide(name, asked, namespace, kubeconfig, context)


@dataclass(frozen=True)
class Asked:
    """The options of both commands."""

    verdict: str
    step: str | None
    comment: str | None
    values: list[str] | None
    yes: bool
    dry_run: bool
    output: TextOrJson


def _decide(
    name: str,
    asked: Asked,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    from corral.cli.approvals import Decision, decide
    from corral.cli.connect import connect
    from corral.cli.parameters import pairs

    decision = Decision(
        verdict=asked.verdict,
        comment=asked.comment,
        values=dict(pairs(asked.values or [], "--set")),
        step=asked.step,
        yes=asked.yes,
        dry_run=asked.dry_run,
        output=asked.output,
    )
    cluster, where = connect(kubeconfig, context, namespace)
    raise typer.Exit(decide(cluster, where, name, decision))
