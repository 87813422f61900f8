"""Exit codes, and the errors that end a command with one sentence instead of a traceback."""

from enum import IntEnum


class Exit(IntEnum):
    """What the shell is told. A run's outcome has codes of its own, for scripts."""

    OK = 0
    FAILED = 1
    """The run failed, the files have problems, or the command could not do what it should."""
    USAGE = 2
    """Wrong options, or a file that can't be read."""
    STOPPED = 3
    """The run was stopped before its end."""
    REFUSED = 4
    """The run is invalid, Stalled, or was refused by the API server."""
    TIMEOUT = 5
    """``--timeout`` passed first; a run in the cluster goes on."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CliError(Exception):
    """Ends the command: ``error: <message>`` on stderr, and the exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
