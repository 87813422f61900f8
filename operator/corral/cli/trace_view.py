"""A trace as a waterfall of text.

invoke_workflow report              ████████████████████████████████   4.2s  $0.0011
├─ step plan                        ██████                             0.8s  $0.0004
│  └─ invoke_agent planner          ██████                             0.8s  $0.0004
│     └─ chat gpt-5-mini            ▕████                              0.7s  $0.0004
└─ step write                             ██████████████████████████   3.4s  $0.0007
   ├─ invoke_agent writer                 ██████                       0.8s
   │    RateLimited: HTTP 429
   └─ invoke_agent writer #2                        ████████████████   2.1s  $0.0007
        retry of attempt 1: RateLimited
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import TypeGuard

from rich.text import Text

from corral.cli.tree import ASCII
from corral.cli.view import duration
from corral.plan.state import Consumption
from corral.tracing import genai
from corral.tracing.span import Link, Span

_NEXT, _LAST, _BAR, _NOTHING = "├─ ", "└─ ", "│  ", "   "
_DURATION = 7
_NARROWEST_BAR = 20
_OURS = "corral-"
"""What the names of corral's own services begin with."""
_STYLES = {
    genai.INVOKE_WORKFLOW: "cyan",
    genai.INVOKE_AGENT: "blue",
    genai.CHAT: "green",
    genai.EXECUTE_TOOL: "yellow",
}
"""By operation; all else is dim."""


@dataclass
class Line:
    """A span, where it stands in the tree, and what it and all below it used."""

    span: Span
    lead: str = ""
    below: str = ""
    """What stands before further lines about it."""
    parent: "Line | None" = None
    branches: bool = False
    """Whether there are lines below it in the tree."""
    used: Consumption = field(default_factory=Consumption)


@dataclass(frozen=True)
class Trace:
    """Spans in the order of the tree: every parent before its children, those by time."""

    lines: Sequence[Line]

    @classmethod
    def of(cls, spans: Iterable[Span], root: str | None = None) -> "Trace":
        """The tree of the spans, or of what is below the one with the id ``root``.

        A span that was sent twice is there once; one whose parent is not there stands at the left.
        """
        known = {span.span_id: span for span in spans}
        children: dict[str | None, list[Span]] = {}
        for span in known.values():
            there = span.parent_id in known and root != span.span_id
            children.setdefault(span.parent_id if there else None, []).append(span)
        for below in children.values():
            below.sort(key=lambda span: (span.started_at, span.ended_at, span.span_id))
        if root is not None:
            children[None] = [known[root]] if root in known else []
        lines: list[Line] = []
        left = dict(known) if root is None else {}
        waiting = [Line(span) for span in reversed(children.get(None, []))]
        while waiting:
            line = waiting.pop()
            lines.append(line)
            left.pop(line.span.span_id, None)
            inner = children.pop(line.span.span_id, [])
            line.branches, last = bool(inner), len(inner) - 1
            waiting += [
                Line(
                    span,
                    line.below + (_LAST if number == last else _NEXT),
                    line.below + (_NOTHING if number == last else _BAR),
                    line,
                )
                for number, span in reversed(list(enumerate(inner)))
            ]
            if left and not waiting:  # parents in a circle
                first = next(iter(left.values()))
                children[first.parent_id].remove(first)
                waiting.append(Line(first))
        for line in reversed(lines):
            line.used.add(used_by(line.span))
            if line.parent is not None:
                line.parent.used.add(line.used)
        return cls(lines)

    @cached_property
    def spans(self) -> list[Span]:
        return [line.span for line in self.lines]

    @property
    def used(self) -> Consumption:
        """What all of it used."""
        total = Consumption()
        for line in self.lines:
            if line.parent is None:
                total.add(line.used)
        return total

    @cached_property
    def began(self) -> float:
        return min(span.started_at for span in self.spans)

    @cached_property
    def seconds(self) -> float:
        return max(span.ended_at for span in self.spans) - self.began


def used_by(span: Span) -> Consumption:
    """What a span itself used: corral's spans of model calls say so, and no other counts."""
    told = span.attributes
    if genai.MODEL_REF not in told:
        return Consumption()
    cost, requests = told.get(genai.COST), _count(span, genai.UNTOLD_REQUESTS, 1)
    return Consumption(
        requests=requests,
        input_tokens=_count(span, genai.INPUT_TOKENS),
        output_tokens=_count(span, genai.OUTPUT_TOKENS),
        # The shortest text of a double is the decimal that it was made of.
        cost=Decimal(repr(float(cost))) if _is_number(cost) else None,
        unpriced_requests=_count(span, genai.UNPRICED),
        simulated_requests=requests if told.get(genai.SIMULATED) is True else 0,
    )


def _count(span: Span, attribute: str, default: int = 0) -> int:
    value = span.attributes.get(attribute, default)
    return int(value) if _is_number(value) else default


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def waterfall(
    trace: Trace,
    width: int,
    *,
    costs: Mapping[str, str] | None = None,
    unicode: bool = True,
) -> list[Text]:
    """A header with the axis, and a line or more a span, none longer than ``width``.

    Args:
        costs: what to show as the cost, by span id; None: what the spans say.
    """
    if costs is None:
        costs = {line.span.span_id: cost_text(line.used) for line in trace.lines}
    names = [line.lead + _plain(_name(line)) for line in trace.lines]
    room = max(len("COST"), *(len(text) for text in costs.values())) if costs else len("COST")
    free = width - room - _DURATION - 6
    widest = min(max(map(len, names)), max(24, free - _NARROWEST_BAR))
    bars = max(_NARROWEST_BAR, free - widest)
    axis = f"0s{duration(trace.seconds):>{bars - 2}}"
    lines = [Text(f"{'SPAN':<{widest}}  {axis}  {'TIME':>{_DURATION}}  {'COST':>{room}}", "bold")]
    scale = bars / (trace.seconds or 1.0)
    places = {line.span.span_id: line for line in trace.lines}
    for line, name in zip(trace.lines, names, strict=True):
        span = line.span
        style = "red" if span.error is not None else _style(span)
        shown = Text(f"{_fit(name, widest):<{widest}}  ")
        first = min(bars - 1, int((span.started_at - trace.began) * scale))
        size = min(bars - first, max(1, round((span.ended_at - span.started_at) * scale)))
        bar = "█" * size if (span.ended_at - span.started_at) * scale >= 0.5 else "▏"
        shown.append(f"{' ' * first}{bar:<{bars - first}}", style)
        shown.append(f"  {duration(span.ended_at - span.started_at):>{_DURATION}}")
        shown.append(f"  {costs.get(span.span_id, ''):>{room}}")
        lines.append(shown)
        for text, kind in _said(line, places):
            more = Text(line.below + ("│ " if line.branches else "  "))
            more.append(_plain(text), kind)
            lines.append(more)
    for each in lines:
        each.rstrip()
        each.truncate(width, overflow="ellipsis" if unicode else "crop")
    return lines if unicode else [Text(each.plain.translate(ASCII)) for each in lines]


def sums(trace: Trace) -> list[tuple[str, str]]:
    """(what, how much) of the spans: how many, of whom, and what failed."""
    services = sorted({str(span.resource.get(genai.SERVICE_NAME, "?")) for span in trace.spans})
    failed = sum(span.error is not None for span in trace.spans)
    retries = sum(_retry(span) is not None for span in trace.spans)
    counts = [f"{len(trace.spans):,}"]
    counts += [f"{number:,} {word}" for number, word in ((failed, "failed"),) if number]
    if retries:
        counts.append(f"{retries:,} {'retry' if retries == 1 else 'retries'}")
    return [("Spans", f"{', '.join(counts)}; of {', '.join(services)}")]


def cost_text(used: Consumption) -> str:
    """What calls cost: nothing where there were none; what has no price is unknown."""
    if not used.requests:
        return ""
    if used.cost is None:
        return "unknown"
    return f"${used.cost_text}" + (" + unknown" if used.unpriced_requests else "")


def _name(line: Line) -> str:
    told, span = line.span.attributes, line.span
    parts = [span.name]
    if genai.ATTEMPT in told:
        step = str(told.get(genai.STEP, ""))
        if "." in step:
            parts.append(step)
        if line.parent is not None and genai.ITEMS in line.parent.span.attributes:
            parts[-1] += f"[{told.get(genai.ITEM)}]"
        if _count(span, genai.ITERATION, 1) > 1:
            parts.append(f"iteration {told[genai.ITERATION]}")
        if _count(span, genai.ATTEMPT, 1) > 1:
            parts.append(f"#{told[genai.ATTEMPT]}")
    if untold := told.get(genai.UNTOLD_REQUESTS):
        parts.append(f"({untold} {'call' if untold == 1 else 'calls'})")
    service = str(span.resource.get(genai.SERVICE_NAME, ""))
    if service and not service.startswith(_OURS):
        parts.append(f"({service})")
    return " ".join(parts)


def _said(line: Line, places: Mapping[str, Line]) -> Iterator[tuple[str, str]]:
    """Further lines about a span, and their style."""
    span = line.span
    if span.error is not None:
        kind = str(span.attributes.get(genai.ERROR_TYPE, ""))
        told = span.error if not kind or kind in span.error else f"{kind}: {span.error}"
        yield told, "red"
    for link in span.links:
        if link is _retry(span):
            reason = link.attributes.get(genai.RETRY_REASON)
            before = f"retry of attempt {_count(span, genai.ATTEMPT, 2) - 1}"
            yield f"{before}: {reason}" if reason else before, "dim"
        else:
            other = places.get(link.span_id)
            yield f"linked to {other.span.name if other else link.span_id}", "dim"


def _retry(span: Span) -> Link | None:
    """The link to the attempt before, where this is another one."""
    return span.links[0] if span.links and genai.ATTEMPT in span.attributes else None


def _style(span: Span) -> str:
    return _STYLES.get(str(span.attributes.get(genai.OPERATION, "")), "dim")


def _plain(text: str) -> str:
    """On one line, and without what a terminal would obey: anybody may add spans to a trace."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _fit(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
