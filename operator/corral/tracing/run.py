"""The spans of a run, of what its Workflow says: the run itself, its steps, attempts.

Whoever asks again gets the same ids, and of what has ended the same spans. What attempts asked of
models and tools is in no status: ``attempt`` makes the spans of that.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from corral.api.trace import SpanRef, span_id
from corral.api.workflow import StepPhase
from corral.plan.names import ANNOTATION_TRACEPARENT, correlation_id
from corral.plan.state import Failure, JournalError, Node, Run, Step, attempt_id, from_journal
from corral.plan.times import parse
from corral.telemetry.text import cleaned
from corral.tracing import genai
from corral.tracing.attempt import Attempt, attempt_span
from corral.tracing.span import OPERATOR, Span, Value

Json = Mapping[str, Any]

_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_BEGAN = frozenset({StepPhase.SUCCEEDED, StepPhase.FAILED})


_parsed = lru_cache(maxsize=4096)(SpanRef.parse)


def caller_of(workflow: Json) -> SpanRef | None:
    """The span that a Workflow was made in, as whoever made it says."""
    annotations = workflow["metadata"].get("annotations") or {}
    return _parsed(annotations.get(ANNOTATION_TRACEPARENT))


def root_of(workflow: Json) -> SpanRef:
    """The span of a run: in the trace that status tells, or else that it is to be in."""
    uid, caller = workflow["metadata"]["uid"], caller_of(workflow)
    told = (workflow.get("status") or {}).get("traceID") or (caller and caller.trace_id)
    if not told or not _TRACE_ID.fullmatch(told):
        told = trace_id_of(uid)
    sampled = caller is None or caller.trace_id != told or caller.sampled
    return SpanRef(told, span_id(uid), sampled)


def trace_id_of(run_id: str) -> str:
    """The trace of a run that nobody gave one: its id, as far as that is a UUID."""
    digits = run_id.replace("-", "")
    return digits if _TRACE_ID.fullmatch(digits) else sha256(run_id.encode()).hexdigest()[:32]


def spans_of(workflow: Json, now: float, run: Run | None = None) -> list[Span]:
    """The run's span, those of steps that began, and of the attempts that status knows of.

    These are the last attempt of each item, and those that failed before it, as far as they are
    kept; none of nested steps that have ended well. What has not ended ends ``now``.

    Args:
        workflow: as it is read from the API server.
        now: seconds since the epoch.
        run: what the journal says, if that was read already.
    """
    return list(_Reading(workflow, now, run).spans())


class _Reading:
    """One Workflow, as it is read."""

    def __init__(self, workflow: Json, now: float, run: Run | None) -> None:
        self._workflow, self._now = workflow, now
        self._status = workflow.get("status") or {}
        self._root = root_of(workflow)
        self._run = run or self._journal()
        self._run_id = workflow["metadata"]["uid"]

    def _journal(self) -> Run | None:
        try:
            return from_journal(self._status["journal"])
        except (KeyError, JournalError):  # of another version: rows tell what they can
            return None

    def spans(self) -> Iterator[Span]:
        started = self._run.started if self._run else _moment(self._status.get("startedAt"))
        if started is None:
            return
        ended = self._run.finished if self._run else _moment(self._status.get("finishedAt"))
        yield self._of_run(started, self._now if ended is None else ended)
        states = self._run.steps | self._run.exit_steps if self._run else {}
        for row in self._status.get("steps") or []:
            step = states.get(row["name"])
            if (span := self._of_step(row, step, started)) is not None:
                yield span
        specs = _specs(self._workflow, self._run)
        for name, step in states.items():
            yield from self._of_attempts("", specs.get(name) or {}, name, step, started)

    def _of_run(self, started: float, ended: float) -> Span:
        meta, status = self._workflow["metadata"], self._status
        caller = caller_of(self._workflow)
        parent = caller.span_id if caller and caller.trace_id == self._root.trace_id else None
        phase = status.get("phase") or ""
        attributes: dict[str, Value] = {
            genai.OPERATION: genai.INVOKE_WORKFLOW,
            genai.WORKFLOW: meta["name"],
            genai.NAMESPACE: meta["namespace"],
            genai.RUN_ID: self._run_id,
            genai.CORRELATION_ID: cleaned(correlation_id(self._workflow)),
            genai.PHASE: phase,
        }
        error = None
        if phase == "Failed":
            reason = self._finished_because() or phase
            attributes[genai.ERROR_TYPE] = reason
            error = cleaned(status.get("message") or reason)
        name = f"{genai.INVOKE_WORKFLOW} {meta['name']}"
        return Span(
            self._root.trace_id,
            self._root.span_id,
            parent,
            name,
            started,
            max(started, ended),
            attributes=attributes,
            error=error,
            resource=OPERATOR,
        )

    def _finished_because(self) -> str | None:
        conditions = self._status.get("conditions") or []
        return next((one.get("reason") for one in conditions if one["type"] == "Finished"), None)

    def _of_step(self, row: Json, step: Step | None, began: float) -> Span | None:
        """The span of a declared step; None for one that did not begin in this run."""
        nodes = step.nodes if step else []
        starts = [node.started for node in nodes if node.started is not None]
        ended = step.finished if step else _moment(row.get("finishedAt"))
        if not starts and (step is None or step.phase in _BEGAN or any(n.steps for n in nodes)):
            told = _moment(row.get("startedAt"))
            known = (told, step.queued, step.finished) if step else (told,)
            starts = [at for at in known if at is not None][:1]
        starts = [at for at in starts if at >= began]  # not those of what was taken over
        if not starts:
            return None
        attributes: dict[str, Value] = {
            genai.RUN_ID: self._run_id,
            genai.CORRELATION_ID: cleaned(correlation_id(self._workflow)),
            genai.STEP: row["name"],
            genai.PHASE: row["phase"],
        }
        shown = {genai.AGENT: row.get("agent"), genai.CHILD: row.get("child")}
        attributes |= {name: value for name, value in shown.items() if value}
        if items := row.get("items"):
            attributes[genai.ITEMS] = int(items.get("total") or 0)
        if row.get("memoized"):
            attributes[genai.MEMOIZED] = True
        error = None
        if row["phase"] == StepPhase.FAILED:
            attributes[genai.ERROR_TYPE] = row.get("reason") or "Failed"
            error = cleaned(row.get("message") or row.get("reason") or "Failed")
        return Span(
            self._root.trace_id,
            span_id(self._run_id, row["name"]),
            self._root.span_id,
            f"step {row['name']}",
            min(starts),
            max(min(starts), self._now if ended is None else ended),
            attributes=attributes,
            error=error,
            resource=OPERATOR,
        )

    def _of_attempts(
        self, path: str, spec: Json, name: str, step: Step, since: float
    ) -> Iterator[Span]:
        for index, node in enumerate(step.nodes):
            if {"agentRef", "agentSelector", "tool"} & spec.keys():
                yield from self._of_node(path + name, spec, index, node, since)
            nested = {one["name"]: one for one in _steps(spec)}
            inside = f"{path}{name}~{index}~{node.iteration}~"
            for inner, state in (node.steps or {}).items():
                yield from self._of_attempts(inside, nested.get(inner) or {}, inner, state, since)

    def _of_node(
        self, path: str, spec: Json, index: int, node: Node, since: float
    ) -> Iterator[Span]:
        def about(iteration: int, attempt: int) -> Attempt:
            identity = attempt_id(self._run_id, path, index, attempt, iteration)
            return _attempt(self._workflow, self._root, identity, spec, node)

        for failure in node.errors:
            failed = about(failure.iteration, failure.attempt)
            at = failed.started or node.started or failure.at
            if at >= since:
                yield attempt_span(failed, at, failure.at, failure.reason, failure.message)
        if not node.attempt or _failure(node, node.iteration, node.attempt) is not None:
            return
        began = node.attempt_started
        if began is None or began < since or (node.worker is None and node.finished is None):
            return  # what waits for a person has left its worker, nobody knows when
        ended = self._now if node.finished is None else node.finished
        outcome = (node.reason or node.phase.value) if node.finished is not None else ""
        last = about(node.iteration, node.attempt)
        yield attempt_span(last, began, ended, outcome, node.message or "")


def attempt_of(workflow: Json, run: Run | None, root: SpanRef, identity: str) -> Attempt:
    """What a run knows of one of its attempts."""
    _, path, item, _, _ = identity.rsplit(".", 4)
    outer, *nested = path.split("~")
    names = [(outer, item)] if not nested else [(outer, nested[0]), (nested[-1], item)]
    specs = _specs(workflow, run)
    steps = run.steps | run.exit_steps if run else {}
    spec: Json = {}
    node = None
    for name, index in names:
        spec, step = specs.get(name) or {}, steps.get(name)
        node = step.nodes[int(index)] if step and int(index) < len(step.nodes) else None
        specs = {one["name"]: one for one in _steps(spec)}
        steps = (node.steps if node else None) or {}
    return _attempt(workflow, root, identity, spec, node or Node())


def _attempt(workflow: Json, root: SpanRef, identity: str, spec: Json, node: Node) -> Attempt:
    iteration, number = (int(part) for part in identity.rsplit(".", 2)[1:])
    failed, before = _failure(node, iteration, number), _failure(node, iteration, number - 1)
    started = failed.started if failed else None
    if (node.iteration, node.attempt) == (iteration, number):
        started = node.attempt_started
    return Attempt(
        root,
        identity,
        workflow["metadata"]["namespace"],
        (spec.get("agentRef") or {}).get("name") or node.agent,
        (spec.get("tool") or {}).get("name"),
        started,
        before.reason if before else None,
        correlation_id(workflow),
    )


def _failure(node: Node, iteration: int, attempt: int) -> Failure | None:
    known = (one for one in node.errors if (one.iteration, one.attempt) == (iteration, attempt))
    return next(known, None)


def _specs(workflow: Json, run: Run | None) -> dict[str, Json]:
    """The declared steps, as they were written."""
    spec = workflow.get("spec") or {}
    kept = (run.template if run else None) or {}
    on_exit = spec.get("onExit") or kept.get("onExit")
    return {step["name"]: step for step in [*_steps(spec), *_steps(kept), *(on_exit or [])]}


def _steps(spec: Json) -> Sequence[Json]:
    return spec.get("steps") or ()


def _moment(text: str | None) -> float | None:
    try:
        return parse(text) if text else None
    except ValueError:
        return None
