"""What became of every step, item and attempt of a run, from the journal."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from corral.api.workflow import NestedStep
from corral.cli.tree import output_text
from corral.cli.view import RunView, duration
from corral.plan.state import Node, Run, Step
from corral.plan.times import rfc3339_millis

_INDEX = re.compile(r"\[(\d+)\]")
_ANY_INDEX = r"\[\d+\]"


@dataclass(frozen=True)
class Filter:
    """What of a run is asked for: a step by its name, ``outer.inner`` or ``outer[3].inner``."""

    step: str | None = None
    item: int | None = None
    attempt: int | None = None

    @property
    def plain(self) -> str:
        """The step without its indices."""
        return _INDEX.sub("", self.step or "")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        names = (self.step or "").split(".")
        parts = [re.escape(name) + ("" if _INDEX.search(name) else _ANY_INDEX) for name in names]
        if self.item is not None and not _INDEX.search(names[-1]):
            parts[-1] = re.escape(f"{names[-1]}[{self.item}]")
        return re.compile(r"\.".join(parts) + r"(\..*)?")

    def takes(self, place: str) -> bool:
        """Whether ``place``, with the index of every step in it, is asked for."""
        return self.step is None or self._pattern.fullmatch(place) is not None

    def is_about(self, line: Mapping[str, Any], run_id: str) -> bool:
        """Whether a log line names an attempt that is asked for, or the run if all of it is."""
        for value in line.values():
            if not isinstance(value, str) or not value.startswith(run_id):
                continue
            if value == run_id:
                if self.step is None:
                    return True
            elif (found := place_of(value, run_id)) and self.takes(found[0]):
                return self.attempt in (None, found[1])
        return False


def place_of(attempt_id: str, run_id: str) -> tuple[str, int] | None:
    """(place, number) of ``<runID>.<path>.<item>.<iteration>.<n>``; None for another text."""
    parts = attempt_id.removeprefix(f"{run_id}.").rsplit(".", 3)
    if not attempt_id.startswith(f"{run_id}.") or len(parts) != 4 or not parts[3].isdigit():
        return None
    *outer, name = parts[0].split("~")
    above = "".join(f"{outer[n]}[{outer[n + 1]}]." for n in range(0, len(outer) - 1, 3))
    return f"{above}{name}[{parts[1]}]", int(parts[3])


def records(view: RunView, run: Run, chosen: Filter) -> Iterator[dict[str, Any]]:
    """One per step, per item of a fan-out and per nested step: where it is, how it came there."""
    yield from _records(view.steps, run.steps, chosen, "", "")
    yield from _records(view.on_exit, run.exit_steps, chosen, "", "")


def _records(
    specs: Sequence[NestedStep],
    steps: Mapping[str, Step],
    chosen: Filter,
    above: str,
    place: str,
) -> Iterator[dict[str, Any]]:
    for spec in specs:
        step = steps.get(spec.name)
        if step is None:
            continue
        if not step.nodes and chosen.item is None and chosen.takes(f"{place}{spec.name}[0]"):
            yield _record(above + spec.name, None, spec, step, None, chosen)
        for index, node in enumerate(step.nodes):
            item = index if step.is_fan_out else None
            here = f"{place}{spec.name}[{index}]"
            name = above + spec.name
            if chosen.takes(here) and _has_attempt(node, chosen.attempt):
                yield _record(name, item, spec, step, node, chosen)
            inner = getattr(spec, "steps", None)
            if inner and node.steps:
                label = name + (f"[{index}]" if item is not None else "")
                yield from _records(inner, node.steps, chosen, f"{label}.", f"{here}.")


def _has_attempt(node: Node, attempt: int | None) -> bool:
    return attempt is None or attempt <= node.attempts or attempt <= node.attempt


def _record(
    name: str,
    item: int | None,
    spec: NestedStep,
    step: Step,
    node: Node | None,
    chosen: Filter,
) -> dict[str, Any]:
    state = node or step
    record: dict[str, Any] = {"step": name, "phase": state.phase.value}
    if item is not None:
        has_item = step.items is not None and item < len(step.items)
        record |= {"item": item, "input": (step.items or [])[item] if has_item else None}
    agent = (node.agent if node else None) or (spec.agent_ref.name if spec.agent_ref else None)
    record["agent"] = agent
    if node is not None:
        ended = node.finished
        spent = node.spent()
        record |= {
            "attempts": node.attempts,
            "iteration": node.iteration if spec.loop is not None else None,
            "memoized": node.memoized or None,
            "takenOver": step.taken_over or None,
            "child": node.child,
            "approval": node.approval,
            "worker": node.worker.pod if node.worker else None,
            "startedAt": rfc3339_millis(node.started) if node.started else None,
            "finishedAt": rfc3339_millis(ended) if ended else None,
            "seconds": round(ended - node.started, 3) if ended and node.started else None,
            "requests": spent.requests or None,
            "costUSD": spent.cost_text,
            "failures": [
                {
                    "attempt": failure.attempt,
                    "iteration": failure.iteration if spec.loop is not None else None,
                    "at": rfc3339_millis(failure.at),
                    "reason": failure.reason,
                    "message": failure.message,
                }
                for failure in node.errors
                if chosen.attempt in (None, failure.attempt)
            ]
            or None,
        }
        whole = chosen.attempt in (None, node.attempt)
        if whole:
            stored = node.stored.model_dump(exclude_none=True) if node.stored else None
            record |= {"output": node.output, "stored": stored}
            record |= {"reason": state.reason, "message": state.message}
    else:
        record |= {"reason": state.reason, "message": state.message}
    return {key: value for key, value in record.items() if value is not None}


def record_text(record: dict[str, Any]) -> str:
    """A record for people: a line, then the failed attempts, the error or the output, indented."""
    name = record["step"] + (f"[{record['item']}]" if "item" in record else "")
    parts = [f"{record.get('startedAt', '-'):<24}  {name}: {record['phase']}"]
    if record.get("iteration"):
        parts.append(f"iteration {record['iteration']}")
    if record.get("attempts"):
        parts.append(f"attempt {record['attempts']}")
    parts += [text for key, text in _MARKS.items() if record.get(key)]
    parts += [f"{word} {record[key]}" for key, word in _PLACES.items() if record.get(key)]
    if "seconds" in record:
        parts.append(duration(record["seconds"]))
    if "costUSD" in record:
        parts.append(f"${record['costUSD']}")
    lines = ["  ".join(parts)]
    failures = record.get("failures", [])
    for failure in failures:
        of = f" of iteration {failure['iteration']}" if failure.get("iteration") else ""
        lines.append(
            f"    {failure['at']}  attempt {failure['attempt']}{of} failed: "
            f"{failure['reason']}: {failure['message']}"
        )
    told = failures and record.get("message") == failures[-1]["message"]
    if "message" in record and not told:
        reason = f"{record['reason']}: " if record.get("reason") else ""
        lines.append(f"    {reason}{record['message']}")
    if "output" in record:
        lines += [f"    {line}" for line in output_text(record["output"]).splitlines()]
    if stored := record.get("stored"):
        lines.append(f"    {stored['size']:,} bytes, stored: corral output shows them")
    return "\n".join(lines)


_MARKS = {"memoized": "memoized", "takenOver": "taken over"}
_PLACES = {"worker": "on", "child": "Workflow", "approval": "approval"}
