"""``corral run --local``."""

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.template import TemplateSpec
from corral.api.workflow import WorkflowSpec, WorkflowStatus
from corral.cli.ask import HINT, Asker, Decisions
from corral.cli.errors import CliError, Exit
from corral.cli.follow import console, follower, show_end, silent
from corral.cli.objects import API_VERSION
from corral.cli.output import write
from corral.cli.parameters import Given, arguments
from corral.cli.select import Selection, generated, select
from corral.cli.view import RunView
from corral.local.office import NobodyDecidesError, Office, StuckError
from corral.local.runner import LocalRun
from corral.local.team import NotRunnableError, assemble
from corral.plan.template import argument_problems, cycle, parameters_of, resolve
from corral.plan.validate import Problem, workflow_problems

NAMESPACE = "local"
SpecT = TypeVar("SpecT")


@dataclass(frozen=True)
class Options:
    """The options that a local run knows."""

    workflow: str | None = None
    name: str | None = None
    generate_name: bool = False
    namespace: str | None = None
    timeout: float | None = None
    output: str = "tree"
    given: Given = field(default_factory=Given)
    decisions: Decisions = field(default_factory=Decisions)


def run_local(paths: Sequence[str], options: Options) -> Exit:
    """Runs the Workflow of the files in this process, and shows it."""
    selection = select(paths, options.workflow, options.given.names)
    spec = selection.workflow.spec
    assert isinstance(spec, WorkflowSpec)
    spec = _with_arguments(spec, selection, options.given)
    models = _specs(selection, "Model", ModelSpec)
    templates = _specs(selection, "WorkflowTemplate", TemplateSpec)
    given = spec.arguments
    config_maps = _config_maps(selection)
    scope, spec = _resolved(spec, templates)
    try:
        team = assemble(
            spec,
            _specs(selection, "Agent", AgentSpec),
            models,
            list(_specs(selection, "AgentPool", PoolSpec).values()),
            templates=templates,
            config_maps=config_maps,
        )
    except NotRunnableError as error:
        raise _not_started(error.problems) from None
    body = {"apiVersion": API_VERSION, **_body(selection, options)}
    if given:
        body["spec"] = {**body["spec"], "arguments": given}
    metadata = body["metadata"]
    office = Office(team, models, templates, config_maps)
    local = LocalRun(metadata["name"], metadata["namespace"], spec, office, memo_scope=scope)
    return _Session(local, body, options).run()


def _not_started(problems: Sequence[str]) -> CliError:
    lines = "\n".join(problems)
    return CliError(f"nothing was started:\n{lines}", Exit.REFUSED)


def _resolved(
    spec: WorkflowSpec, templates: Mapping[str, TemplateSpec]
) -> tuple[str, WorkflowSpec]:
    """The template's name, if there is one, and what runs.

    Raises:
        CliError: there is no such template in the files, or its parameters are broken.
    """
    if spec.workflow_template_ref is None:
        return "", spec
    name = spec.workflow_template_ref.name
    template = templates.get(name)
    if template is None:
        raise _not_started([f"there is no WorkflowTemplate {name!r} in the files"])
    resolved = resolve(spec, template)
    problems = argument_problems(template, resolved.arguments or {})
    problems = problems or workflow_problems(resolved, parameters_of(template))
    if path := cycle(name, templates):
        problems.append(Problem("spec", f"{name!r} reaches itself: {' → '.join(path)}"))
    if problems:
        raise _not_started([str(problem) for problem in problems])
    return name, resolved


def _config_maps(selection: Selection) -> dict[str, dict[str, str]]:
    """The data of the files' ConfigMaps, by name."""
    return {
        document.data["metadata"]["name"]: dict(document.data.get("data") or {})
        for document in selection.checked.foreign
        if document.data["kind"] == "ConfigMap" and "name" in (document.data.get("metadata") or {})
    }


def _with_arguments(spec: WorkflowSpec, selection: Selection, given: Given) -> WorkflowSpec:
    template = selection.template
    if not given and template is None:
        return spec
    graph = selection.workflow.document.data["spec"] if template is None else template["spec"]
    schema = None if template is None else graph.get("parameters")
    merged = arguments(given, spec.arguments, schema, graph)
    return spec.model_copy(update={"arguments": merged or None})


def _specs(selection: Selection, kind: str, type_: type[SpecT]) -> dict[str, SpecT]:
    return {
        loaded.name: loaded.spec
        for loaded in selection.checked.of(kind)
        if isinstance(loaded.spec, type_)
    }


def _body(selection: Selection, options: Options) -> dict[str, Any]:
    namespace = options.namespace or selection.workflow.namespace or NAMESPACE
    body = selection.body(
        name=options.name, generate_name=options.generate_name, namespace=namespace
    )
    if prefix := body["metadata"].pop("generateName", None):
        body["metadata"].setdefault("name", generated(prefix))
    return body


class _Session:
    """A local run with its terminal: what is shown, and what Ctrl-C and the clock do."""

    def __init__(self, local: LocalRun, body: dict[str, Any], options: Options) -> None:
        self._local = local
        self._body = body
        self._options = options
        self._console = console()
        self._interrupts = 0
        self._task: asyncio.Task[Any] | None = None

    def run(self) -> Exit:
        """The exit code by outcome."""
        shown = follower(self._console) if self._options.output == "tree" else silent()
        code: Exit | None = None
        asker = Asker(self._options.decisions, shown.pause, self._local.namespace)
        self._local.office.decide = asker.decide
        warnings: list[str] = []
        self._local.office.warn = warnings.append
        stuck = ""
        with shown:
            self._local.on_status = lambda status, spec: shown.update(self._view(status, spec))
            try:
                asyncio.run(self._run())
            except TimeoutError:
                code = Exit.TIMEOUT
            except asyncio.CancelledError:
                code = Exit.INTERRUPTED
            except NobodyDecidesError as error:
                code, stuck = Exit.REFUSED, f"{error}; {HINT}"
            except (NotRunnableError, StuckError) as error:
                code, stuck = Exit.REFUSED, str(error)
        view = self._view(self._local.status, self._local.spec)
        if self._options.output == "tree":
            show_end(self._console, view)
            if code is Exit.TIMEOUT:
                self._console.print(f"ended by --timeout after {self._options.timeout:g}s")
        else:
            status = self._local.status.to_json()
            write({**self._body, "status": status}, self._options.output)
        if self._local.over_budget and code is None:
            code, stuck = Exit.REFUSED, "the budget is spent; raise spec.budget to go on"
        for sentence in warnings:
            print(f"warning: {sentence}", file=sys.stderr)
        if stuck:
            print(f"error: {stuck}", file=sys.stderr)
        code = view.exit_code if code is None else code
        return Exit.FAILED if code is None else code

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        handled = True
        try:
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            handled = False
        try:
            async with asyncio.timeout(self._options.timeout):
                await self._local.run()
        finally:
            if handled:
                loop.remove_signal_handler(signal.SIGINT)

    def _interrupted(self) -> None:
        """Once: stop in order. Twice: end now."""
        self._interrupts += 1
        if self._interrupts == 1:
            self._local.stop()
        elif self._task is not None:
            self._task.cancel()

    def _view(self, status: WorkflowStatus, spec: WorkflowSpec) -> RunView:
        metadata = self._body["metadata"]
        return RunView(metadata["name"], metadata["namespace"], spec, status)
