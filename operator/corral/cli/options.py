"""The options and arguments that several commands share, and the forms of their output."""

from enum import StrEnum
from typing import Annotated

import typer

from corral.cli import complete


class TextOrJson(StrEnum):
    """For people or for programs."""

    TEXT = "text"
    JSON = "json"


class RunForm(StrEnum):
    """How a run is printed."""

    TREE = "tree"
    JSON = "json"
    YAML = "yaml"


class CreatedForm(StrEnum):
    """How a new run is printed."""

    TREE = "tree"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


class GetForm(StrEnum):
    """How objects are printed."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"
    TREE = "tree"


class CostForm(StrEnum):
    """How costs are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"
    FOCUS = "focus"


class TraceForm(StrEnum):
    """How a trace is printed."""

    TABLE = "table"
    JSON = "json"


class DryRun(StrEnum):
    """Who looks at what is not done: this program alone, or the API server too."""

    CLIENT = "client"
    SERVER = "server"


class GraphForm(StrEnum):
    """The language in which a graph is drawn."""

    MERMAID = "mermaid"
    DOT = "dot"


class Shell(StrEnum):
    """A shell that words can be completed in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Files, directories, or - for stdin.")
]
Recursive = Annotated[
    bool, typer.Option("-R", "--recursive", help="Directories with all that is below them.")
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "-n",
        "--namespace",
        help="The namespace; else the context's.",
        autocompletion=complete.namespaces,
    ),
]
OPERATOR_NAMESPACE = "corral-system"
OperatorNamespace = Annotated[
    str, typer.Option("--operator-namespace", help="Where the operator is.")
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="A kubeconfig; else KUBECONFIG, as kubectl.")
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context", help="A context of the kubeconfig.", autocompletion=complete.contexts
    ),
]
Plain = Annotated[TextOrJson, typer.Option("-o", "--output", help="The form of the output.")]
WorkflowName = Annotated[
    str,
    typer.Argument(
        metavar="WORKFLOW", help="The Workflow's name.", autocompletion=complete.workflows
    ),
]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="DURATION", help="Follow no longer: 10m.")
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        help="An argument of the run; text, or JSON where the schema asks for it. May be repeated.",
        autocompletion=complete.parameters,
    ),
]
ParameterFile = Annotated[
    str | None,
    typer.Option("--parameter-file", metavar="FILE", help="Arguments, as YAML or JSON."),
]
NewName = Annotated[str | None, typer.Option("--name", help="The new run's name.")]
Watch = Annotated[bool, typer.Option("--watch", help="Show the run until it ends.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end, and show only that.")]
Created = Annotated[CreatedForm, typer.Option("-o", "--output", help="The form of the output.")]
DryRunOption = Annotated[
    DryRun | None,
    typer.Option("--dry-run", help="Only say what would be made; server: ask the API server."),
]


def limit_of(timeout: str | None) -> float | None:
    """``--timeout`` in seconds.

    Raises:
        CliError: it is no duration.
    """
    from corral.api.types import seconds
    from corral.cli.errors import CliError, Exit

    try:
        return None if timeout is None else seconds(timeout)
    except ValueError as error:
        raise CliError(f"--timeout: {error}", Exit.USAGE) from None
