"""The commands and their options. What a command does is imported when it is called."""

from enum import StrEnum
from typing import Annotated

import typer

from corral.cli.errors import CliError, Exit

app = typer.Typer(
    name="corral",
    help="Runs teams of AI agents: on Kubernetes, or here with --local.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class TextOrJson(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"


class RunForm(StrEnum):
    """How a run is printed."""

    TREE = "tree"
    JSON = "json"
    YAML = "yaml"


class GetForm(StrEnum):
    """How objects are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    TREE = "tree"


Files = Annotated[
    list[str], typer.Argument(metavar="FILE...", help="Files, directories, or - for stdin.")
]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="The namespace; else the context's.")
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="A kubeconfig; else KUBECONFIG, as kubectl.")
]
Context = Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig.")]
Plain = Annotated[TextOrJson, typer.Option("-o", "--output", help="The form of the output.")]
WorkflowName = Annotated[str, typer.Argument(metavar="WORKFLOW", help="The Workflow's name.")]


@app.command()
def version() -> None:
    """Print the version.

    \b
    Examples:
      corral version
    """
    from corral.cli.main import version as installed

    typer.echo(f"corral {installed()}")


@app.command()
def validate(paths: Files, output: Plain = TextOrJson.TEXT) -> None:
    """Check manifests without a cluster.

    As strictly as the API server and corral would do it. Problems are printed as
    FILE:LINE: Kind/name: field: message. Exit code 0: valid, 1: problems, 2: a file can't be read.

    \b
    Examples:
      corral validate team.yaml workflow.yaml
      corral validate manifests/samples/research-team
      kubectl get workflow report -o yaml | corral validate -
      corral validate -o json .
    """
    from corral.cli.validate import validate as run

    raise typer.Exit(run(paths, output))


@app.command()
def run(
    paths: Files,
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without a cluster.")
    ] = False,
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="Which Workflow, if the files have several.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Another name for the run.")] = None,
    generate_name: Annotated[
        bool, typer.Option("--generate-name", help="Make up a name that begins with the file's.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete a run of that name first.")
    ] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that others have set.")
    ] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Follow no longer: 10m.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show the run until it ends.")
    ] = True,
    output: Annotated[
        RunForm, typer.Option("-o", "--output", help="The form of the output.")
    ] = RunForm.TREE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Start a Workflow and show it until it ends.

    All other objects in the files are applied first. With --local nothing leaves this process but
    calls to models; API keys come from CORRAL_KEY_<MODEL> or the provider's own variable.

    Exit code 0: Succeeded, 1: Failed, 3: Stopped, 4: invalid, Stalled or refused, 5: --timeout,
    130: Ctrl-C (a run in the cluster goes on; a local one is stopped, a second time killed).

    \b
    Examples:
      corral run team.yaml workflow.yaml
      corral run -n demo --generate-name --timeout 10m workflow.yaml
      corral run --local manifests/samples/hello/hello.yaml
      corral run -o json workflow.yaml | jq .status.output
    """
    from corral.api.types import seconds

    try:
        limit = None if timeout is None else seconds(timeout)
    except ValueError as error:
        raise CliError(f"--timeout: {error}", Exit.USAGE) from None
    if local:
        from corral.cli.run_local import Options as LocalOptions
        from corral.cli.run_local import run_local

        options = LocalOptions(workflow, name, generate_name, namespace, limit, output)
        raise typer.Exit(run_local(paths, options))
    from corral.cli.cluster import Cluster
    from corral.cli.run import Options, run_in_cluster

    raise typer.Exit(
        run_in_cluster(
            lambda: Cluster.connect(kubeconfig, context),
            paths,
            Options(
                workflow=workflow,
                name=name,
                generate_name=generate_name,
                replace=replace,
                force_conflicts=force_conflicts,
                namespace=namespace,
                timeout=limit,
                follow=follow,
                output=output,
            ),
        )
    )


@app.command()
def get(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="workflows, agents, agentpools or models.")
    ] = "workflows",
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One object.")] = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Of all namespaces.")
    ] = False,
    output: Annotated[
        GetForm, typer.Option("-o", "--output", help="tree is for one Workflow.")
    ] = GetForm.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show Workflows, Agents, AgentPools and Models.

    \b
    Examples:
      corral get
      corral get agents -A -o wide
      corral get workflow report -o tree
      corral get workflow report -o json
    """
    from corral.cli.cluster import Cluster
    from corral.cli.get import get as run

    cluster = Cluster.connect(kubeconfig, context)
    where = None if all_namespaces else namespace or cluster.namespace
    raise typer.Exit(run(cluster, kind, name, where, output))


@app.command()
def logs(
    workflow: WorkflowName,
    step: Annotated[str | None, typer.Option("--step", help="Only this step.")] = None,
    item: Annotated[
        int | None, typer.Option("--item", min=0, help="Only this item of a fan-out, from 0.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the run ends.")
    ] = False,
    output: Plain = TextOrJson.TEXT,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show what happened in a run, step by step.

    Attempts, times, errors and outputs, and the log lines of workers that still exist.

    \b
    Examples:
      corral logs report
      corral logs report --step research --item 2
      corral logs -f report
      corral logs report -o json
    """
    from corral.cli.cluster import Cluster
    from corral.cli.logs import Filter
    from corral.cli.logs import logs as run

    if item is not None and step is None:
        raise CliError("--item needs --step", Exit.USAGE)
    cluster = Cluster.connect(kubeconfig, context)
    where = namespace or cluster.namespace
    raise typer.Exit(run(cluster, where, workflow, Filter(step, item), follow, output))


@app.command()
def stop(
    workflow: WorkflowName,
    terminate: Annotated[
        bool, typer.Option("--terminate", help="Don't run the onExit steps either.")
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


@app.command()
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


@app.command()
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
    from corral.cli.cluster import Cluster

    cluster = Cluster.connect(kubeconfig, context)
    where = namespace or cluster.namespace
    raise typer.Exit(change(cluster, where, workflow, fields, said, output))


@app.command("model-server")
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


@app.command()
def operator() -> None:
    """Run the operator (this is what its pod runs).

    \b
    Examples:
      corral operator
    """
    from corral.handlers.main import main

    raise typer.Exit(main())


@app.command()
def worker() -> None:
    """Run a worker (this is what a worker pod runs).

    \b
    Examples:
      corral worker
    """
    from corral.worker.server import main

    raise typer.Exit(main())
