"""The entry point: finds out what to import.

``corral worker`` and ``corral operator`` are handled here, before typer, rich or a client of
Kubernetes is imported.
"""

import os
import sys


def main() -> int:
    """Runs the command line in ``sys.argv``; returns the exit code."""
    match sys.argv[1:]:
        case ["worker"]:
            from corral.worker.server import main as worker

            return worker()
        case ["operator"]:
            from corral.handlers.main import main as operator

            return operator()
        case ["version"]:
            print(f"corral {version()}")
            return 0
    return _command_line()


def version() -> str:
    """The installed version; ``unknown`` where corral was not installed as a package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("corral")
    except PackageNotFoundError:
        return "unknown"


def _command_line() -> int:
    from corral.cli.app import app
    from corral.cli.complete import prepare
    from corral.cli.errors import CliError, Exit

    prepare()
    try:
        app()
    except CliError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, a pager that was quit) has what it wanted.
        sys.stderr.close()
        return Exit.OK
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if os.environ.get("CORRAL_DEBUG"):
            raise
        said = " ".join(str(error).split())[:300]
        print(
            f"error: this should not happen: {type(error).__name__}: {said} "
            "(CORRAL_DEBUG=1 shows where)",
            file=sys.stderr,
        )
        return Exit.FAILED
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
