"""What runs in corral's pods, and what is about the program itself."""

from typing import Annotated

import typer

from corral.cli.options import Shell


def version() -> None:
    """Print the version.

    \b
    Examples:
      corral version
    """
    from corral.cli.main import version as installed

    typer.echo(f"corral {installed()}")


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete words.

    Commands and options, and names from the cluster: of workflows, steps, templates, namespaces.
    For kubectl corral, kubectl_complete-corral must be on PATH as kubectl-corral is.

    \b
    Examples:
      source <(corral completion bash)
      corral completion zsh > "${fpath[1]}/_corral"
      corral completion fish > ~/.config/fish/completions/corral.fish
    """
    from corral.cli.complete import script

    typer.echo(script(shell))


def model_server(
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option("--port", help="The port to listen at.")] = 8080,
    rules: Annotated[
        str | None, typer.Option("--rules", metavar="FILE", help="What to answer (YAML or JSON).")
    ] = None,
    api_key_file: Annotated[
        str | None, typer.Option("--api-key-file", metavar="FILE", help="The key to ask for.")
    ] = None,
) -> None:
    """Serve simulated models, for demos and tests.

    The protocol is OpenAI's; every answer is marked as simulated.

    \b
    Examples:
      corral model-server --rules rules.yaml
      corral model-server --host 127.0.0.1 --port 8081 --api-key-file key.txt
    """
    from corral.modelserver.server import serve

    raise typer.Exit(serve(host, port, rules, api_key_file))


def tool_server(
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option("--port", help="The port to listen at.")] = 8080,
    token_file: Annotated[
        str | None, typer.Option("--token-file", metavar="FILE", help="The token to ask for.")
    ] = None,
) -> None:
    """Serve tools for agents, for demos and tests.

    The Model Context Protocol is at /mcp, the calls so far are at /journal.

    \b
    Examples:
      corral tool-server --host 127.0.0.1 --port 8082
      corral tool-server --token-file token.txt
    """
    from corral.toolserver.server import serve

    raise typer.Exit(serve(host, port, token_file))


def operator() -> None:
    """Run the operator (this is what its pod runs).

    \b
    Examples:
      corral operator
    """
    from corral.handlers.main import main

    raise typer.Exit(main())


def worker() -> None:
    """Run a worker (this is what a worker pod runs).

    \b
    Examples:
      corral worker
    """
    from corral.worker.server import main

    raise typer.Exit(main())
