"""``corral run --local``."""

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.api.pool import PoolSpec
from corral.api.workflow import WorkflowSpec, WorkflowStatus
from corral.cli.errors import CliError, Exit
from corral.cli.follow import console, follower, show_end, silent
from corral.cli.objects import API_VERSION
from corral.cli.output import write
from corral.cli.parameters import Given, arguments
from corral.cli.select import Selection, generated, select
from corral.cli.view import RunView
from corral.cost.prices import price
from corral.local.runner import LocalRun
from corral.local.team import NotRunnableError, assemble

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


def run_local(paths: Sequence[str], options: Options) -> Exit:
    """Runs the Workflow of the files in this process, and shows it."""
    selection = select(paths, options.workflow, options.given.names)
    spec = selection.workflow.spec
    assert isinstance(spec, WorkflowSpec)
    spec = _with_arguments(spec, selection, options.given)
    models = _specs(selection, "Model", ModelSpec)
    try:
        team = assemble(
            spec,
            _specs(selection, "Agent", AgentSpec),
            models,
            list(_specs(selection, "AgentPool", PoolSpec).values()),
        )
    except NotRunnableError as error:
        lines = "\n".join(error.problems)
        raise CliError(f"nothing was started:\n{lines}", Exit.REFUSED) from None
    body = {"apiVersion": API_VERSION, **_body(selection, options)}
    if spec.arguments:
        body["spec"] = {**body["spec"], "arguments": spec.arguments}
    metadata = body["metadata"]
    local = LocalRun(metadata["name"], metadata["namespace"], spec, team, models, price)
    return _Session(local, body, options).run()


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
        with shown:
            self._local.on_status = lambda status, spec: shown.update(self._view(status, spec))
            try:
                asyncio.run(self._run())
            except TimeoutError:
                code = Exit.TIMEOUT
            except asyncio.CancelledError:
                code = Exit.INTERRUPTED
        view = self._view(self._local.status, self._local.spec)
        if self._options.output == "tree":
            show_end(self._console, view)
            if code is Exit.TIMEOUT:
                self._console.print(f"ended by --timeout after {self._options.timeout:g}s")
        else:
            status = self._local.status.to_json()
            write({**self._body, "status": status}, self._options.output)
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
