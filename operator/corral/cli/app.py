"""All commands, in the order and the groups in which ``corral --help`` lists them.

What a command's options are is in ``commands``; what it does is imported when it is called.
"""

from collections.abc import Callable
from typing import Any

import typer

from corral.cli.commands import decide, files, look, processes, results, runs, steer
from corral.cli.sections import Sections

app = typer.Typer(
    name="corral",
    help="Runs teams of AI agents: on Kubernetes, or here with --local.",
    cls=Sections,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Start runs": (runs.run, runs.submit, runs.retry, runs.resubmit),
    "Look": (
        look.get,
        look.watch,
        look.logs,
        look.trace,
        results.output,
        results.cost,
        files.graph,
    ),
    "Decide and change": (
        decide.approve,
        decide.reject,
        steer.stop,
        steer.suspend,
        steer.resume,
    ),
    "Files": (files.validate, files.fmt),
    "The program": (
        processes.completion,
        processes.version,
        processes.model_server,
        processes.tool_server,
        processes.operator,
        processes.worker,
    ),
}


def _register(section: str, command: Callable[..., Any]) -> None:
    name = command.__name__.replace("_", "-")
    app.command(name, rich_help_panel=section)(command)


for _section, _commands in _COMMANDS.items():
    for _command in _commands:
        _register(_section, _command)
