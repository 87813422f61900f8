"""A run as a tree of text: the one picture of it, for the cluster and for ``--local``.

Workflow demo/report  Running  1/3  4.2s  $0.0011 (simulated)
├─ ✓ plan      Succeeded    0.8s  $0.0004
├─ ● research  Running      3.4s  $0.0007  2 of 6 done, 4 running
│  └─ ✗ [1]    Failed             attempt 3
│       Model fast failed with HTTP 500.
├─ ● review    Running      1.0s  $0.0002  iteration 2 of 4
│  ├─ ✓ read   Succeeded    0.5s  $0.0001  memoized
│  └─ ● judge  Running      0.5s  $0.0001
└─ ○ write     Pending                     after research
"""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text

from corral.api.types import Usage
from corral.api.workflow import (
    Attention,
    ItemCounts,
    NestedStep,
    Step,
    StepPhase,
    StepRow,
    WorkflowPhase,
)
from corral.cli.view import RunView, cost, duration, elapsed, short_cost
from corral.plan.state import Step as StepState

STYLES = {
    "Succeeded": "green",
    "Failed": "bold red",
    "Stopped": "yellow",
    "Running": "cyan",
    "Waiting": "yellow",
    "Suspended": "yellow",
    "Skipped": "dim",
    "Omitted": "dim",
    "Cancelled": "yellow",
}
_SYMBOLS = {
    StepPhase.PENDING: ("○", "."),
    StepPhase.QUEUED: ("◌", "~"),
    StepPhase.RUNNING: ("●", ">"),
    StepPhase.WAITING: ("◔", "w"),
    StepPhase.SUCCEEDED: ("✓", "+"),
    StepPhase.FAILED: ("✗", "x"),
    StepPhase.SKIPPED: ("·", "-"),
    StepPhase.OMITTED: ("·", "-"),
    StepPhase.CANCELLED: ("■", "c"),
}
_MESSAGE_LINES = 4
_LONGEST_NAME = 28
_PHASE = 9
_NEXT, _LAST, _BAR = ("├─ ", "└─ ", "│  ")
ASCII = str.maketrans({"├": "|", "└": "`", "│": "|", "─": "-", "…": ".", "█": "#", "▏": "|"})


@dataclass(frozen=True)
class _Entry:
    name: str
    phase: StepPhase
    seconds: float | None = None
    cost: str = ""
    detail: str = ""
    message: str = ""
    children: tuple["_Entry", ...] = ()


def tree(view: RunView, width: int, now: float, *, unicode: bool = True) -> list[Text]:
    """The lines of the tree, none longer than ``width``."""
    main, on_exit = _entries(view, now)
    entries = [*main, *on_exit]
    wanted = [len(entry.name) for entry in entries]
    wanted += [len(child.name) + len(_BAR) for entry in entries for child in entry.children]
    longest = max(wanted, default=0)
    names = min(_LONGEST_NAME, max(longest, 4))
    lines = [headline(view, now)]
    lines += _branch(main, "", names, width, unicode, closed=not on_exit)
    if on_exit:
        lines.append(Text(f"{_LAST}on exit"))
        lines += _branch(on_exit, "   ", names, width, unicode, closed=True)
    if said := _said(view):
        lines += [Text(line) for line in textwrap.wrap(said, width)]
    for line in lines:
        line.rstrip()
        line.truncate(width, overflow="ellipsis" if unicode else "crop")
    return lines if unicode else [Text(line.plain.translate(ASCII)) for line in lines]


def headline(view: RunView, now: float) -> Text:
    """What the run is and how it goes, in one line."""
    phase = phase_text(view)
    where = f"{view.namespace}/{view.name}" if view.namespace else view.name
    line = Text(f"Workflow {where}  ")
    line.append(phase, STYLES.get(phase, ""))
    for part in (
        view.status.progress,
        duration(view.seconds(now)),
        short_cost(view.status.usage),
    ):
        if part:
            line.append(f"  {part}")
    return line


def phase_text(view: RunView) -> str:
    """The phase, or that the run is Stalled or being stopped."""
    if view.stalled:
        return "Stalled"
    phase = view.status.phase or WorkflowPhase.PENDING
    if view.spec.shutdown and not view.finished:
        return f"{phase.value} (stopping)"
    return phase.value


def summary(view: RunView, now: float) -> list[Text]:
    """What the run came to."""
    rows = [("Phase", phase_text(view)), ("Duration", duration(view.seconds(now)))]
    rows += usage_rows(view.status.usage)
    lines = [Text(f"{label:<9} {value}") for label, value in rows if value]
    if view.status.output is not None:
        lines.append(Text("Output"))
        lines += [Text(f"  {line}") for line in output_text(view.status.output).splitlines()]
    return lines


def usage_rows(usage: Usage | None) -> list[tuple[str, str]]:
    """(what, how much) was used; nothing where no model was called."""
    if usage is None or not usage.requests:
        return []
    requests = "request" if usage.requests == 1 else "requests"
    tokens = f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"
    return [("Cost", cost(usage)), ("Tokens", f"{tokens}, {usage.requests:,} {requests}")]


def output_text(value: object) -> str:
    """An output for people: text as it is, all else as JSON on several lines."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def items_text(items: ItemCounts) -> str:
    """``2 of 6 done, 4 running, 1 failed``."""
    if not items.total:
        return "no items"
    done = items.succeeded + items.failed + items.omitted + items.cancelled
    parts = [f"{done} of {items.total} done"]
    for number, word in (
        (items.running, "running"),
        (items.waiting, "waiting"),
        (items.queued, "queued"),
        (items.failed, "failed"),
        (items.cancelled, "cancelled"),
        (items.omitted, "not run"),
    ):
        if number:
            parts.append(f"{number} {word}")
    return ", ".join(parts)


def reason_text(row: StepRow | Attention) -> str:
    """Why a row is where it is, in one line; nothing where it goes as it should."""
    message = (row.message or "").strip()
    reason = row.reason
    if not message or not reason or reason in (row.phase.value, "Skipped", "Omitted"):
        return message
    return f"{reason}: {message}"


def _said(view: RunView) -> str:
    """The run's message, unless a row says the same."""
    message = view.stalled or view.status.message or ""
    rows = view.status.steps or []
    return "" if any(row.message and row.message in message for row in rows) else message


def _entries(view: RunView, now: float) -> tuple[list[_Entry], list[_Entry]]:
    rows = {row.name: row for row in view.status.steps or []}
    attention = view.status.attention or []
    states = view.run.steps | view.run.exit_steps

    def entries(specs: list[Step]) -> list[_Entry]:
        return [
            _entry(spec, rows.get(spec.name), states.get(spec.name), attention, now)
            for spec in specs
        ]

    return entries(view.steps), entries(view.on_exit)


def _entry(
    spec: Step,
    row: StepRow | None,
    state: StepState | None,
    attention: list[Attention],
    now: float,
) -> _Entry:
    row = row or StepRow(name=spec.name, phase=StepPhase.PENDING)
    details = []
    if row.items is not None:
        details.append(items_text(row.items))
    details += _details(spec, row.phase, row.attempts, row.iteration, row.memoized)
    if state is not None and state.taken_over:
        details.append("taken over")
    if row.child:
        details.append(f"Workflow {row.child}")
    if row.approval:
        waits = row.phase is StepPhase.WAITING
        details.append(f"{'waits for approval' if waits else 'approval'} {row.approval}")
    children = tuple(
        _Entry(
            name=item.name.removeprefix(spec.name),
            phase=item.phase,
            detail=f"attempt {item.attempt}" if (item.attempt or 0) > 1 else "",
            message=reason_text(item),
        )
        for item in attention
        if item.name.startswith(f"{spec.name}[") and item.message
    )
    return _Entry(
        name=spec.name,
        phase=row.phase,
        seconds=elapsed(row.started_at, row.finished_at, now),
        cost=f"${row.cost_usd}" if row.cost_usd else "",
        detail=", ".join(details),
        message=reason_text(row),
        children=tuple(_nested(spec, state, now)) or children,
    )


def _details(
    spec: NestedStep,
    phase: StepPhase,
    attempts: int | None,
    iteration: int | None,
    memoized: bool | None,
) -> Iterator[str]:
    if spec.loop is not None and iteration:
        yield f"iteration {iteration} of {spec.loop.max_iterations}"
    if (attempts or 0) > 1:
        yield f"attempt {attempts}"
    if memoized:
        yield "memoized"
    if phase is StepPhase.PENDING and spec.depends_on:
        yield "after " + ", ".join(spec.depends_on)


def _nested(spec: Step, state: StepState | None, now: float) -> Iterator[_Entry]:
    """The nested steps of a step that is no fan-out, as far as its present iteration is."""
    if spec.steps is None or spec.for_each is not None:
        return
    inner = (state.nodes[0].steps if state and state.nodes else None) or {}
    if state is not None and state.final and not inner:
        return  # the journal keeps the nested steps of what goes on
    for nested in spec.steps:
        yield _inner(nested, inner.get(nested.name) or StepState(), now)


def _inner(spec: NestedStep, state: StepState, now: float) -> _Entry:
    node = state.nodes[0] if state.nodes and not state.is_fan_out else None
    details = []
    if state.is_fan_out:
        details.append(items_text(_counts(state)))
    details += _details(
        spec,
        state.phase,
        node.attempts if node else None,
        node.iteration if node else None,
        node.memoized if node else None,
    )
    if node and node.child:
        details.append(f"Workflow {node.child}")
    if node and node.approval:
        details.append(f"approval {node.approval}")
    starts = [node.started for node in state.nodes if node.started is not None]
    ended = state.finished if state.finished is not None else now
    cost_text = state.used().cost_text
    return _Entry(
        name=spec.name,
        phase=state.phase,
        seconds=max(0.0, ended - min(starts)) if starts else None,
        cost=f"${cost_text}" if cost_text else "",
        detail=", ".join(details),
        message=state.message or (node.message if node else None) or "",
    )


def _counts(state: StepState) -> ItemCounts:
    phases = [node.phase for node in state.nodes]
    return ItemCounts(
        total=len(phases),
        **{
            phase.value.lower(): phases.count(phase)
            for phase in (
                *(StepPhase.SUCCEEDED, StepPhase.FAILED, StepPhase.RUNNING, StepPhase.OMITTED),
                *(StepPhase.QUEUED, StepPhase.WAITING, StepPhase.CANCELLED),
            )
        },
    )


def _branch(
    entries: list[_Entry] | tuple[_Entry, ...],
    prefix: str,
    names: int,
    width: int,
    unicode: bool,
    *,
    closed: bool,
) -> Iterator[Text]:
    """The entries' lines. ``closed`` says that nothing follows the last one on this level."""
    costs = max((len(entry.cost) for entry in entries), default=0)
    for number, entry in enumerate(entries):
        last = closed and number == len(entries) - 1
        yield _line(entry, prefix + (_LAST if last else _NEXT), names, costs, unicode)
        below = prefix + ("   " if last else _BAR)
        if entry.message:
            yield from _message(entry, below, width, bool(entry.children))
        if entry.children:
            yield from _branch(entry.children, below, names - 3, width, unicode, closed=True)


def _line(entry: _Entry, lead: str, names: int, costs: int, unicode: bool) -> Text:
    style = STYLES.get(entry.phase.value, "")
    line = Text(lead)
    line.append(_SYMBOLS[entry.phase][0 if unicode else 1], style)
    line.append(f" {_fit(entry.name, names):<{names}}  ")
    line.append(f"{entry.phase.value:<{_PHASE}}", style)
    line.append(f"  {duration(entry.seconds):>6}")
    if costs:
        line.append(f"  {entry.cost:<{costs}}")
    if entry.detail:
        line.append(f"  {entry.detail}")
    return line


def _message(entry: _Entry, below: str, width: int, children: bool) -> Iterator[Text]:
    lead = below + ("│ " if children else "  ")
    wrapped = textwrap.wrap(entry.message, max(20, width - len(lead)))
    if len(wrapped) > _MESSAGE_LINES:
        wrapped = [*wrapped[: _MESSAGE_LINES - 1], wrapped[_MESSAGE_LINES - 1] + " …"]
    style = "red" if entry.phase is StepPhase.FAILED else "dim"
    for piece in wrapped:
        line = Text(lead)
        line.append(piece, style)
        yield line


def _fit(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
