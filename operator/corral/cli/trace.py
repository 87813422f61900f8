"""``corral trace``: what a run did and when, span by span."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.text import Text

from corral.api.trace import span_id
from corral.api.types import Usage
from corral.cli.cluster import Cluster
from corral.cli.errors import CliError, Exit
from corral.cli.follow import console, is_unicode, show
from corral.cli.lookup import workflow_of
from corral.cli.output import write
from corral.cli.trace_store import load
from corral.cli.trace_view import Trace, sums, waterfall
from corral.cli.tree import headline, usage_rows
from corral.cli.view import RunView, duration
from corral.tracing.otlp_json import written
from corral.tracing.run import root_of, spans_of
from corral.tracing.span import Span

Connect = Callable[[], tuple[Cluster, str]]


@dataclass(frozen=True)
class Wanted:
    """What is asked for, and how it is to be shown."""

    store: str | None = None
    """An address, a file or ``-``; None: what status tells alone."""
    trace_id: str | None = None
    """Where no Workflow is named."""
    form: str = "table"


def trace(connect: Connect, workflow: str | None, wanted: Wanted) -> Exit:
    """Prints the trace of a Workflow, or all of the one with that id.

    Raises:
        CliError: there is no such Workflow or trace, or it can't be had.
    """
    if workflow is not None:
        cluster, namespace = connect()
        return _of_run(workflow_of(cluster, namespace, workflow), wanted)
    if wanted.store is None:
        raise CliError("name a WORKFLOW, or say by --store where the trace is", Exit.USAGE)
    spans = load(wanted.store, wanted.trace_id)
    if not spans:
        what = "a trace" if wanted.trace_id is None else f"trace {wanted.trace_id}"
        raise CliError(f"there is not {what} in {wanted.store} (yet)")
    found = Trace.of(spans)
    head = [f"Trace {spans[0].trace_id}  of {wanted.store}"]
    _print(found, wanted, head, found.used.to_usage())
    return Exit.OK


def _of_run(data: Mapping[str, Any], wanted: Wanted) -> Exit:
    now, root = time.time(), root_of(data)
    view, told = RunView.of(dict(data)), spans_of(data, now)
    if not told:
        raise CliError(f"Workflow {view.name!r} has not begun: it has no spans yet")
    if wanted.store is None:
        found = Trace.of(told, root.span_id)
        exported = f"Trace {view.status.trace_id}: " if view.status.trace_id else ""
        what = "what status knows; calls of models and tools are in a trace store only"
        head = [headline(view, now).plain, exported + what]
        _print(found, wanted, head, view.status.usage, _known_costs(view, root.span_id))
        return Exit.OK
    stored = _stored(view, wanted.store, root.trace_id)
    # The spans of what goes on, a run's own above all, are in no store yet.
    there = {span.span_id for span in stored}
    missing = [span for span in told if span.span_id not in there]
    found = Trace.of([*stored, *missing], root.span_id)
    head = [headline(view, now).plain, f"Trace {root.trace_id}  of {wanted.store}"]
    _print(found, wanted, head, found.used.to_usage())
    if missing:
        _note(f"{len(missing)} of the spans are from status: the store does not have them (yet)")
    if others := len(there) + len(missing) - len(found.spans):
        _note(f"{others} more of the trace are not below this run: --trace-id {root.trace_id}")
    spent = Decimal((view.status.usage and view.status.usage.cost_usd) or 0)
    if view.finished and spent != (found.used.cost or 0):
        _note(f"status says ${spent}: the store does not have all spans (yet)")
    return Exit.OK


def _stored(view: RunView, store: str, trace_id: str) -> Sequence[Span]:
    if view.status.trace_id is None:
        why = "its operator does not export any (docs/guides/distributed-tracing.md)"
        raise CliError(f"Workflow {view.name!r} has no trace: {why}")
    spans = load(store, trace_id)
    if not spans and view.finished:
        why = "spans come some seconds late, and those of a trace that is not sampled never"
        raise CliError(f"there is no trace {trace_id} in {store} (yet): {why}")
    return spans


def _known_costs(view: RunView, root: str) -> dict[str, str]:
    """By span id, as far as status knows: of the run and of its declared steps."""
    rows = view.status.steps or []
    known = {
        span_id(view.status.run_id or "", row.name): f"${row.cost_usd}"
        for row in rows
        if row.cost_usd
    }
    usage = view.status.usage
    if usage and usage.requests:
        known[root] = "unknown" if usage.cost_usd is None else f"${usage.cost_usd}"
        if usage.cost_usd is not None and usage.unpriced_requests:
            known[root] += " + unknown"
    return known


def _print(
    found: Trace,
    wanted: Wanted,
    head: Sequence[str],
    usage: Usage | None,
    costs: Mapping[str, str] | None = None,
) -> None:
    if wanted.form == "json":
        write(written(found.spans), "json")
        return
    output = console()
    lines = waterfall(found, output.width, costs=costs, unicode=is_unicode(output))
    rows = [*sums(found), ("Duration", duration(found.seconds)), *usage_rows(usage)]
    show(output, [*map(Text, head), Text(), *lines, Text()])
    show(output, [Text(f"{label:<9} {value}") for label, value in rows])


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
