"""``corral output``: an output whole, from the status or from the artifact store."""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.api.workflow import StepPhase
from corral.cli.cluster import ApiError, Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.lookup import workflow_of
from corral.cli.operator_service import OperatorService
from corral.cli.options import OPERATOR_NAMESPACE
from corral.cli.view import RunView
from corral.cli.words import similar
from corral.plan.artifacts import Reference, decode, encode
from corral.plan.state import JournalError, Node, Run, Step, Stored

_SEGMENT = re.compile(r"(?P<name>[^.\[\]]+)(?:\[(?P<item>\d+)\])?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Wanted:
    """Whose output: the run's, a step's, or an item's of its fan-out; and in which form.

    ``step`` is a name; of nested steps ``outer.inner`` or ``outer[3].inner``. ``form`` is ``json``,
    ``raw``, a file's name, or None: for people.
    """

    step: str | None = None
    item: int | None = None
    form: str | None = None
    operator_namespace: str = OPERATOR_NAMESPACE


def output(cluster: Cluster, namespace: str, name: str, wanted: Wanted) -> Exit:
    """Prints the output, or writes it to a file.

    Raises:
        CliError: there is none, or it can't be had.
    """
    view = RunView.of(workflow_of(cluster, namespace, name))
    where = wanted.operator_namespace
    service = OperatorService(cluster, where, "artifacts", "corral-artifact-reader")
    store = _Store(service, view)
    if wanted.step is None:
        value = _of_run(view, store)
    else:
        value = _of_step(view, store, wanted.step, wanted.item)
    _show(value, wanted.form)
    return Exit.OK


@dataclass(frozen=True)
class _Store:
    """The artifact store, as one reaches it through the API server."""

    service: OperatorService
    view: RunView

    def value(self, inline: Any, stored: Stored | None) -> Any:
        """What the journal keeps inline, or by its place."""
        if stored is None:
            return inline
        run_id = stored.run_id or self.view.run.run_id
        return self.load(Reference(stored.sha256, stored.size, self.view.namespace, run_id))

    def load(self, reference: Reference) -> Any:
        """A stored value; its hash is compared.

        Raises:
            CliError: it is not there, or can't be had.
        """
        try:
            content = self.service.read(f"artifacts/{reference.path}")
        except ApiError as error:
            if error.status == 404:
                raise CliError(f"{reference.text} is not in the artifact store") from None
            raise CliError(f"{reference.text} can't be read: {error.message}") from None
        if hashlib.sha256(content).hexdigest() != reference.sha256:
            raise CliError(f"{reference.text} came damaged: its content has another SHA-256")
        return decode(content)


def _of_run(view: RunView, store: _Store) -> Any:
    run = _journal(view)
    if run.output_stored is None and view.status.output is None:
        if view.spec.output is None and view.spec.workflow_template_ref is None:
            raise CliError(
                f"Workflow {view.name!r} declares no output (spec.output); --step shows a step's"
            )
        phase = view.status.phase.value if view.status.phase else "Pending"
        raise CliError(f"Workflow {view.name!r} is {phase} and has no output")
    return store.value(view.status.output, run.output_stored)


def _of_step(view: RunView, store: _Store, path: str, item: int | None) -> Any:
    run = _journal(view)
    steps: Mapping[str, Step] = {**run.steps, **run.exit_steps}
    *outer, last = _segments(path)
    above = ""
    for name, index in outer:
        node = _node(_step(view, steps, above, name), above + name, index)
        steps = node.steps or {}
        above += name + (f"[{index}]" if index is not None else "") + "."
    name, index = last
    if index is not None and item not in (None, index):
        raise CliError(f"--step {path} and --item {item} are two different items", Exit.USAGE)
    index = item if index is None else index
    step = _step(view, steps, above, name)
    if step.is_fan_out and index is None:
        if not step.final:
            raise CliError(f"step {path!r} is {step.phase.value}; --item shows an item's output")
        done = [node for node in step.nodes if node.phase is StepPhase.SUCCEEDED]
        return [store.value(node.output, node.stored) for node in done]
    node = _node(step, above + name, index)
    if node.phase is not StepPhase.SUCCEEDED:
        which = f"step {above + name!r}" + (f", item {index}," if index is not None else "")
        raise CliError(f"{which} is {node.phase.value} and has no output")
    return store.value(node.output, node.stored)


def _journal(view: RunView) -> Run:
    try:
        return view.journal()
    except JournalError as error:
        raise CliError(f"Workflow {view.name!r}: {error}") from None


def _segments(path: str) -> list[tuple[str, int | None]]:
    found = []
    for segment in path.split("."):
        match = _SEGMENT.fullmatch(segment)
        if match is None:
            raise CliError(
                f"--step: {path!r} is not STEP, OUTER.INNER or OUTER[3].INNER", Exit.USAGE
            )
        item = match["item"]
        found.append((match["name"], None if item is None else int(item)))
    return found


def _step(view: RunView, steps: Mapping[str, Step], above: str, name: str) -> Step:
    if name in steps:
        return steps[name]
    if not above and name in {spec.name for spec in (*view.steps, *view.on_exit)}:
        raise CliError(f"step {name!r} has not started")
    hint = similar(name, list(steps))
    raise CliError(f"Workflow {view.name!r} has no step {above + name!r}{hint}")


def _node(step: Step, path: str, index: int | None) -> Node:
    if index is not None and not step.is_fan_out:
        raise CliError(f"step {path!r} is no fan-out: it has no items", Exit.USAGE)
    if index is None and step.is_fan_out:
        raise CliError(f"step {path!r} is a fan-out: say which item, {path}[0]", Exit.USAGE)
    if (index or 0) < len(step.nodes):
        return step.nodes[index or 0]
    if step.final and step.is_fan_out:
        raise CliError(f"step {path!r} has no item {index}: it has {len(step.nodes)} items")
    which = f"step {path!r}" + (f", item {index}," if index is not None else "")
    raise CliError(f"{which} is {step.phase.value} and has no output")


def _show(value: Any, form: str | None) -> None:
    raw = value.encode() if isinstance(value, str) else encode(value)
    if form == "raw":
        sys.stdout.flush()
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()
    elif form == "json" or (form is None and not isinstance(value, str)):
        print(json.dumps(value, indent=2, ensure_ascii=False))
    elif form is None:
        # A model wrote it: it must not command a terminal.
        print(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", value) if sys.stdout.isatty() else value)
    else:
        try:
            Path(form).write_bytes(raw)
        except OSError as error:
            raise CliError(f"{form} can't be written: {error.strerror}", Exit.USAGE) from None
        print(f"{form}: {len(raw):,} bytes", file=sys.stderr)
