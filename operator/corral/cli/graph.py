"""``corral graph``: a Workflow's steps as a drawing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corral.api.workflow import NestedStep, Step, StepPhase, TriggerRule, WorkflowStatus
from corral.cli.check import check
from corral.cli.drawing import Arrow, Box, Drawing, dot, mermaid
from corral.cli.errors import CliError, Exit
from corral.cli.kinds import WORKFLOW, kind_named
from corral.cli.lookup import object_of
from corral.cli.manifests import STDIN, SUFFIXES
from corral.cli.tree import items_text
from corral.cli.view import RunView
from corral.plan.state import Step as StepState

_DRAWABLE = ("Workflow", "WorkflowTemplate", "CronWorkflow")
_LONGEST = 48


@dataclass(frozen=True)
class Wanted:
    """How it is to be drawn."""

    form: str = "mermaid"
    status: bool | None = None
    """None: if there is one."""
    workflow: str | None = None


def graph(source: str, wanted: Wanted, connect: Callable[[], Any]) -> Exit:
    """Prints the drawing of a file's Workflow, template or cron, or of one in the cluster.

    Raises:
        CliError: there is none, or several, or it has problems.
    """
    title, steps, on_exit, view = _found(source, wanted, connect)
    shows_status = wanted.status if wanted.status is not None else view is not None
    drawing = drawing_of(title, steps, on_exit, view if shows_status else None)
    print({"mermaid": mermaid, "dot": dot}[wanted.form](drawing), end="")
    return Exit.OK


Found = tuple[str, Sequence[Step], Sequence[Step], RunView | None]


def _found(source: str, wanted: Wanted, connect: Callable[[], Any]) -> Found:
    path = Path(source)
    if source == STDIN or path.exists() or path.suffix in SUFFIXES:
        return _in_file(source, wanted.workflow)
    word, slash, name = source.partition("/")
    kind = kind_named(word) if slash else WORKFLOW
    cluster, namespace = connect()
    found = object_of(cluster, kind, namespace, name if slash else source)
    return _object(kind.name, found)


def _in_file(source: str, name: str | None) -> Found:
    checked = check([source])
    found = [
        loaded for kind in _DRAWABLE for loaded in checked.of(kind) if name in (None, loaded.name)
    ]
    if not found and checked.problems:
        lines = "\n".join(str(problem) for problem in checked.problems)
        raise CliError(f"nothing can be drawn:\n{lines}", Exit.REFUSED)
    if not found:
        what = f"Workflow {name!r}" if name else "Workflow"
        raise CliError(f"there is no {what} in {source}", Exit.USAGE)
    if len(found) > 1:
        names = ", ".join(loaded.name for loaded in found)
        raise CliError(f"there are several Workflows: {names}; choose by --workflow", Exit.USAGE)
    return _object(found[0].kind.name, found[0].document.data)


def _object(kind: str, data: Mapping[str, Any]) -> Found:
    metadata, spec = data["metadata"], data["spec"]
    title = metadata.get("name") or metadata.get("generateName", "")
    if kind not in _DRAWABLE:
        raise CliError(f"a {kind} has no graph", Exit.USAGE)
    if kind == "CronWorkflow":
        spec = spec["workflowSpec"]
    view = RunView.of({"metadata": metadata, "spec": spec, "status": data.get("status") or {}})
    if not view.steps:
        template = (spec.get("workflowTemplateRef") or {}).get("name")
        raise CliError(
            f"{kind} {title!r} has no steps of its own; draw its template: "
            f"corral graph template/{template}"
        )
    live = kind == "Workflow" and view.status != WorkflowStatus()
    return title, view.steps, view.on_exit, view if live else None


def drawing_of(
    title: str, steps: Sequence[Step], on_exit: Sequence[Step], view: RunView | None = None
) -> Drawing:
    """The steps as boxes; with their phases, if ``view`` is a run of them."""
    states: Mapping[str, StepState] = {}
    if view is not None:
        states = view.run.steps | view.run.exit_steps
        title = f"{title}: {(view.status.phase or 'Pending')}"
    boxes = [_box(step, "s_", states, view) for step in steps]
    if on_exit:
        inside = tuple(_box(step, "x_", states, view) for step in on_exit)
        boxes.append(Box("on_exit", "steps", ("on exit",), None, inside))
    arrows = [*_arrows(steps, "s_"), *_arrows(on_exit, "x_")]
    return Drawing(title, tuple(boxes), tuple(arrows))


def _arrows(steps: Sequence[NestedStep], prefix: str) -> Iterator[Arrow]:
    for step in steps:
        rule = step.trigger_rule
        label = "" if rule is TriggerRule.ALL_SUCCEEDED else rule.value
        for dependency in step.depends_on or []:
            yield Arrow(prefix + dependency, prefix + step.name, label)
        yield from _arrows(getattr(step, "steps", None) or [], f"{prefix}{step.name}.")


def _box(
    step: NestedStep, prefix: str, states: Mapping[str, StepState], view: RunView | None
) -> Box:
    id_ = prefix + step.name
    state = states.get(step.name)
    phase = _phase(step, state, view, top="." not in id_)
    nested: list[NestedStep] = list(getattr(step, "steps", None) or [])
    inner: Mapping[str, StepState] = {}
    if state is not None and state.nodes and not state.is_fan_out:
        inner = state.nodes[0].steps or {}
    # What is inside a fan-out runs once an item: the items have phases, the steps have not. And
    # of what is over the journal does not keep the nested steps.
    over = state is not None and state.final and not inner
    below = view if view is not None and step.for_each is None and not over else None
    inside = tuple(_box(one, f"{id_}.", inner, below) for one in nested)
    lines = (step.name, *_said(step), *_progress(step, view, top="." not in id_))
    return Box(id_, _kind(step), lines, phase, inside)


def _phase(
    step: NestedStep, state: StepState | None, view: RunView | None, *, top: bool
) -> str | None:
    if view is None:
        return None
    rows = {row.name: row for row in view.status.steps or []} if top else {}
    if step.name in rows:
        return rows[step.name].phase.value
    return (state.phase if state is not None else StepPhase.PENDING).value


def _progress(step: NestedStep, view: RunView | None, *, top: bool) -> Iterator[str]:
    rows = {row.name: row for row in view.status.steps or []} if view and top else {}
    row = rows.get(step.name)
    if row is not None and row.items is not None:
        yield items_text(row.items)
    if row is not None and row.memoized:
        yield "memoized"
    if row is not None and row.child:
        yield f"Workflow {row.child}"


def _kind(step: NestedStep) -> str:
    for kind in ("approval", "wait", "workflow", "tool", "transform", "steps"):
        if getattr(step, kind, None) is not None:
            return kind
    return "agent"


def _said(step: NestedStep) -> Iterator[str]:
    """What it does, in a few words a line."""
    if step.agent_ref:
        yield f"Agent {step.agent_ref.name}"
    elif step.agent_selector:
        yield "Agent that can " + ", ".join(step.agent_selector.match_capabilities)
    elif step.approval:
        yield "approval by " + ", ".join(approver.name for approver in step.approval.approvers)
    elif step.wait:
        yield f"wait {step.wait.duration}"
    elif step.workflow:
        yield f"template {step.workflow.template_ref.name}"
    elif step.tool:
        yield f"tool {step.tool.name}"
    elif step.transform is not None:
        yield "transform"
    if each := step.for_each:
        at_once = f", {each.max_concurrent} at once" if each.max_concurrent else ""
        yield f"for each {each.as_}{at_once}"
    if step.loop:
        yield _short(f"loop ≤ {step.loop.max_iterations} until {step.loop.until}")
    if step.when is not None:
        yield _short(f"when {step.when}")
    if step.memoize:
        yield "memoized by key"
    if step.allow_failure:
        yield "may fail"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
