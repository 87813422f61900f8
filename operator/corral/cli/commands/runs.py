"""Commands that start runs."""

from typing import Annotated

import typer

from corral.cli import complete
from corral.cli.options import (
    Context,
    Created,
    CreatedForm,
    DryRunOption,
    Files,
    Kubeconfig,
    Namespace,
    NewName,
    ParameterFile,
    Parameters,
    RunForm,
    Timeout,
    Wait,
    Watch,
    WorkflowName,
    limit_of,
)

Which = Annotated[
    str | None, typer.Option("--workflow", help="Which Workflow, if the files have several.")
]


def run(
    paths: Files,
    local: Annotated[
        bool, typer.Option("--local", help="Run in this process, without a cluster.")
    ] = False,
    parameter: Parameters = None,
    parameter_file: ParameterFile = None,
    workflow: Which = None,
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
    timeout: Timeout = None,
    approve: Annotated[
        list[str] | None,
        typer.Option(
            "--approve",
            metavar="STEP",
            help="With --local: agree where this step asks ('batch[3].review'; * is any).",
        ),
    ] = None,
    reject: Annotated[
        list[str] | None,
        typer.Option("--reject", metavar="STEP", help="With --local: refuse where it asks."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=TEXT", help="With --approve: what the step lets be set."
        ),
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
    calls to models and tools; API keys come from CORRAL_KEY_<MODEL> or the provider's own variable.
    A step that asks a person asks you, on a terminal; elsewhere --approve and --reject answer.

    Exit code 0: Succeeded, 1: Failed, 3: Stopped, 4: invalid, Stalled or refused, 5: --timeout,
    130: Ctrl-C (a run in the cluster goes on; a local one is stopped, a second time killed).

    \b
    Examples:
      corral run team.yaml workflow.yaml
      corral run -n demo --generate-name --timeout 10m workflow.yaml
      corral run -p topic=batteries -p 'regions=["EU", "US"]' workflow.yaml
      corral run --local manifests/samples/hello/hello.yaml
      corral run -o json workflow.yaml | jq .status.output
    """
    from corral.cli.parameters import Given, pairs

    limit = limit_of(timeout)
    given = Given.of(parameter, parameter_file)
    if local:
        from corral.cli.ask import Decisions
        from corral.cli.run_local import Options as LocalOptions
        from corral.cli.run_local import run_local

        decisions = Decisions(
            tuple(approve or ()), tuple(reject or ()), dict(pairs(values or [], "--set"))
        )
        options = LocalOptions(
            workflow, name, generate_name, namespace, limit, output, given, decisions
        )
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
                given=given,
            ),
        )
    )


def submit(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Files, or - for stdin.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="KIND/NAME",
            help="What to run: template/NAME, cron/NAME or workflow/NAME.",
            autocompletion=complete.sources,
        ),
    ] = None,
    parameter: Parameters = None,
    parameter_file: ParameterFile = None,
    workflow: Which = None,
    name: NewName = None,
    generate_name: Annotated[
        str | None,
        typer.Option("--generate-name", metavar="PREFIX", help="How the made-up name begins."),
    ] = None,
    watch: Watch = False,
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRunOption = None,
    output: Created = CreatedForm.TREE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Make a run of a file, a template, a cron or an earlier run.

    Nothing but the Workflow is sent. Parameters are checked against the template's schema before.
    Without --name the cluster makes one up, that begins with the source's; a Workflow in a file
    keeps its own. The command returns at once, with --watch or --wait when the run has ended.

    Exit codes are those of corral run: 0: made, or Succeeded, 1: Failed, 3: Stopped, 4: invalid,
    Stalled or refused, 5: --timeout, 130: Ctrl-C (the run goes on).

    \b
    Examples:
      corral submit --from template/report -p topic=batteries --watch
      corral submit --from cron/nightly --name nightly-again
      corral submit --from workflow/report -p topic=magnets -o name
      corral submit workflow.yaml --parameter-file values.yaml --wait --timeout 10m
      corral submit --from template/report --dry-run client -o yaml
    """
    from corral.cli.connect import connect
    from corral.cli.create import NewRun
    from corral.cli.parameters import Given
    from corral.cli.submit import Source
    from corral.cli.submit import submit as run

    new = NewRun(name, generate_name, watch, wait, limit_of(timeout), dry_run, output)
    given = Given.of(parameter, parameter_file)
    what = Source(paths or [], source, workflow, namespace)
    raise typer.Exit(run(lambda: connect(kubeconfig, context, namespace), what, given, new))


def retry(
    workflow: Annotated[
        str,
        typer.Argument(
            metavar="WORKFLOW",
            help="A run that Failed or was Stopped.",
            autocompletion=complete.retriable,
        ),
    ],
    name: NewName = None,
    watch: Watch = False,
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRunOption = None,
    output: Created = CreatedForm.TREE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run again what failed.

    Makes a new Workflow of the same spec that takes over the steps that succeeded: they are neither
    done nor paid for again. Exit codes are those of corral submit.

    \b
    Examples:
      corral retry report
      corral retry report --name report-2 --watch
    """
    from corral.cli.again import retry as run
    from corral.cli.connect import connect
    from corral.cli.create import NewRun

    new = NewRun(name, None, watch, wait, limit_of(timeout), dry_run, output)
    cluster, where = connect(kubeconfig, context, namespace)
    raise typer.Exit(run(cluster, where, workflow, new))


def resubmit(
    workflow: WorkflowName,
    parameter: Parameters = None,
    parameter_file: ParameterFile = None,
    name: NewName = None,
    watch: Watch = False,
    wait: Wait = False,
    timeout: Timeout = None,
    dry_run: DryRunOption = None,
    output: Created = CreatedForm.TREE,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run a Workflow again, from the beginning.

    Makes a new Workflow of the same spec, with other arguments if you like. Exit codes are those of
    corral submit.

    \b
    Examples:
      corral resubmit report
      corral resubmit report -p topic=magnets --watch
    """
    from corral.cli.again import resubmit as run
    from corral.cli.connect import connect
    from corral.cli.create import NewRun
    from corral.cli.parameters import Given

    new = NewRun(name, None, watch, wait, limit_of(timeout), dry_run, output)
    given = Given.of(parameter, parameter_file)
    cluster, where = connect(kubeconfig, context, namespace)
    raise typer.Exit(run(cluster, where, workflow, given, new))
