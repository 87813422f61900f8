"""A run as its Workflow's status shows it: rows for people, the journal for the engine."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from corral.api.errors import ConditionType, Reason
from corral.api.types import Condition
from corral.api.workflow import (
    Attention,
    ItemCounts,
    StepPhase,
    StepRow,
    WorkflowBudgetStatus,
    WorkflowPhase,
    WorkflowSpec,
    WorkflowStatus,
)
from corral.plan import budget
from corral.plan.artifacts import Reference
from corral.plan.conditions import condition, find, merge
from corral.plan.expressions import compact_json
from corral.plan.frames import StepSpec
from corral.plan.observed import Pass
from corral.plan.selection import agent_of, missing
from corral.plan.state import Node, Run, Step, Stored, to_journal
from corral.plan.times import rfc3339, rfc3339_millis
from corral.plan.validate import Problem
from corral.plan.workflow import MISSING_PATIENCE

ROW_OUTPUT = 256
"""Bytes of a step's output that its row shows."""
ATTENTION = 16
_AT_WORK = frozenset({StepPhase.RUNNING, StepPhase.WAITING})


def status_of(p: Pass, previous: WorkflowStatus, generation: int) -> WorkflowStatus:
    """The status of a run that could be planned."""
    run = p.run
    steps = run.steps | run.exit_steps
    used = run.used()
    done = sum(step.final for step in steps.values())
    specs = {step.name: step for step in [*(p.spec.steps or []), *(p.spec.on_exit or [])]}
    status = WorkflowStatus(
        observed_generation=generation,
        run_id=run.run_id,
        phase=run.phase,
        progress=f"{done}/{len(steps)}",
        started_at=rfc3339(run.started) if run.started is not None else None,
        finished_at=rfc3339(run.finished) if run.finished is not None else None,
        message=(run.message or _waiting_message(p))[:4096] or None,
        trace_id=previous.trace_id or p.trace_id,
        usage=used.to_usage() if used.requests else None,
        budget=_budget(p),
        output=_shown(p, run.output, run.output_stored),
        steps=[_row(p, specs[name], step) for name, step in steps.items()],
        attention=_attention(p) or None,
        conditions=merge(
            previous.conditions, _conditions(p, previous.conditions), generation, p.now
        ),
    )
    # Past the model: whoever writes the status sees to it that it is not too large.
    status.journal = to_journal(run)
    return status


def only_queued(p: Pass) -> bool:
    """Whether there is no more to tell of a run than that its first steps wait for slots."""
    phases = (StepPhase.PENDING, StepPhase.QUEUED)
    return (
        p.run.phase is WorkflowPhase.RUNNING
        and all(
            step.phase in phases and all(node.phase in phases for node in step.nodes)
            for step in (p.run.steps | p.run.exit_steps).values()
        )
        and _waiting(p) is None
    )


def stalled_status(
    spec: WorkflowSpec | None,
    problems: Sequence[Problem],
    run_id: str,
    previous: WorkflowStatus,
    generation: int,
    now: float,
) -> WorkflowStatus:
    """The status of a Workflow that can't be run as it is written; ``spec`` if it can be read."""
    message = "; ".join(str(problem) for problem in problems[:5])
    if len(problems) > 5:
        message += f"; and {len(problems) - 5} more"
    reason = problems[0].reason
    current = [
        condition(ConditionType.FINISHED, False, reason, message),
        condition(ConditionType.SUCCEEDED, None, reason, message),
        condition(ConditionType.RECONCILING, False, reason, message),
        condition(ConditionType.STALLED, True, reason, message),
    ]
    rows: dict[str, Any] = {}
    if spec is not None and previous.journal is None:
        specs = [*(spec.steps or []), *(spec.on_exit or [])]
        rows["steps"] = [StepRow(name=step.name, phase=StepPhase.PENDING) for step in specs]
        rows["progress"] = f"0/{len(specs)}"
    return previous.model_copy(
        update={
            **rows,
            "observed_generation": generation,
            "run_id": run_id,
            "phase": previous.phase or WorkflowPhase.PENDING,
            "message": message[:4096],
            "conditions": merge(previous.conditions, current, generation, now),
        }
    )


def _budget(p: Pass) -> WorkflowBudgetStatus | None:
    limits = p.spec.budget
    if limits is None:
        return None
    used, held = p.run.used(), budget.reserved(p.run)
    shown = WorkflowBudgetStatus()
    if limits.max_cost_usd is not None:
        shown.spent_cost_usd = used.cost_text or "0"
        shown.reserved_cost_usd = f"{(held.cost or Decimal(0)).normalize():f}"
        shown.limit_cost_usd = limits.max_cost_usd
    if limits.max_tokens is not None:
        shown.spent_tokens = used.input_tokens + used.output_tokens
        shown.reserved_tokens = held.tokens
        shown.limit_tokens = limits.max_tokens
    return shown


def _shown(p: Pass, value: Any, stored: Stored | None) -> Any:
    """An output as status shows it: itself, or where it is."""
    if stored is None:
        return value
    run_id = stored.run_id or p.run.run_id
    return Reference(stored.sha256, stored.size, p.namespace, run_id).to_json()


def _row(p: Pass, spec: StepSpec, step: Step) -> StepRow:
    used = step.used()
    row = StepRow(
        name=spec.name,
        phase=step.phase,
        agent=_agents_of(spec, step),
        cost_usd=used.cost_text,
        reason=step.reason,
        message=step.message,
        extract=step.extract,
    )
    starts = [node.started for node in step.nodes if node.started is not None]
    row.started_at = rfc3339_millis(min(starts)) if starts else None
    row.finished_at = rfc3339_millis(step.finished) if step.finished is not None else None
    if any(node.memoized for node in step.nodes):
        row.memoized = True
    if step.is_fan_out:
        row.items = _counts(step.nodes)
    elif step.nodes:
        node = step.nodes[0]
        row.attempts = node.attempts or None
        row.iteration = node.iteration if spec.loop is not None else None
        row.child = node.child
        row.approval = node.approval or next((call.approval for call in node.calls), None)
        if step.phase is StepPhase.SUCCEEDED:
            row.output = (
                short_output(node.output) if node.stored is None else _shown(p, None, node.stored)
            )
        row.reason = row.reason or node.reason
        row.message = row.message or node.message or node.overlap
    held_back = p.held_back.get(row.agent or "")
    queued = (node.phase is StepPhase.QUEUED for node in step.nodes)
    if held_back is not None and row.reason is None and any(queued):
        row.reason, row.message = held_back[0].value, held_back[1]
    return row


def _agents_of(spec: StepSpec, step: Step) -> str | None:
    """Who does the step; of several that were chosen, those that do most come first."""
    if spec.tool is not None:
        return None
    found = Counter(name for node in step.nodes if (name := agent_of(spec, node)))
    if not found:
        return spec.agent_ref.name if spec.agent_ref else None
    names = [name for name, _ in sorted(found.items(), key=lambda one: (-one[1], one[0]))]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _counts(nodes: Sequence[Node]) -> ItemCounts:
    phases = Counter(node.phase for node in nodes)
    return ItemCounts(
        total=len(nodes),
        succeeded=phases[StepPhase.SUCCEEDED],
        failed=phases[StepPhase.FAILED],
        running=phases[StepPhase.RUNNING],
        queued=phases[StepPhase.QUEUED],
        waiting=phases[StepPhase.WAITING],
        omitted=phases[StepPhase.OMITTED],
        cancelled=phases[StepPhase.CANCELLED],
    )


def short_output(output: Any) -> Any:
    """An output as a row shows it: whole if it is small, else the beginning of its text."""
    if isinstance(output, str):
        encoded = output.encode()
        if len(encoded) <= ROW_OUTPUT:
            return output
        return encoded[: ROW_OUTPUT - 3].decode(errors="ignore") + "…"
    text = compact_json(output)
    return output if len(text.encode()) <= ROW_OUTPUT else short_output(text)


def _attention(p: Pass) -> list[Attention]:
    """Failed items and nested steps first, then those that run or are tried again."""
    found: list[tuple[int, Attention]] = []
    for frame in p.frames.with_ended():
        for name, step in frame.steps.items():
            if frame.around is None and not step.is_fan_out:
                continue  # its row says it all
            for index, node in enumerate(step.nodes):
                if node.phase is StepPhase.FAILED:
                    rank = 0
                elif node.phase in _AT_WORK or (node.reason and not node.final):
                    rank = 1
                else:
                    continue
                shown = Attention(
                    name=frame.shown(frame.specs[name], step, index)[:128],
                    phase=node.phase,
                    attempt=node.attempts or None,
                    reason=node.reason,
                    message=(node.message or "")[:256] or None,
                )
                found.append((rank, shown))
    return [shown for _, shown in sorted(found, key=lambda pair: pair[0])[:ATTENTION]]


def _waiting(p: Pass) -> tuple[Reason, str] | None:
    """What the run waits for that people may have to act on."""
    if lacking := missing(p):
        return lacking[0].reason, lacking[0].message
    queued: set[str] = set()
    asked: list[str] = []
    for frame in p.frames.all():
        for name, step in frame.steps.items():
            for index, node in enumerate(step.nodes):
                spec = frame.specs[name]
                if node.phase is StepPhase.QUEUED and (agent := agent_of(spec, node)):
                    queued.add(agent)
                elif node.phase is StepPhase.WAITING and (spec.approval or node.asks):
                    asked.append(frame.shown(spec, step, index))
    for name in sorted(queued):
        if (view := p.agents.get(name)) and view.capacity_problem:
            return Reason.NO_CAPACITY, f"Agent {name!r}: {view.capacity_problem}"
        if name in p.held_back:
            return p.held_back[name]
        if view is not None and name in p.held_agents:
            return Reason.BUDGET_EXCEEDED, f"the budget of Agent {name!r} is spent for this period"
    if asked:
        more = f" and {len(asked) - 1} more" if len(asked) > 1 else ""
        return Reason.APPROVAL_PENDING, f"{asked[0]}{more}: waits for a person's approval"
    return None


def _waiting_message(p: Pass) -> str:
    if p.run.finished_for_good:
        return ""
    if p.run.exceeded is not None:
        return _over_budget(p.run.exceeded)
    waiting = _waiting(p)
    return waiting[1] if waiting else ""


def _over_budget(limit: str) -> str:
    return f"the budget of {limit} has too little left for the next step; raise it to go on"


def _conditions(p: Pass, previous: Sequence[Condition]) -> list[Condition]:
    run: Run = p.run
    finished = run.finished_for_good
    message = run.message or ""
    if finished:
        reason = run.halted or Reason(run.phase.value)
        succeeded: bool | None = run.phase is WorkflowPhase.SUCCEEDED
        failed = run.phase is WorkflowPhase.FAILED
        current = [
            condition(ConditionType.FINISHED, True, _end_reason(run), message),
            condition(ConditionType.SUCCEEDED, succeeded, reason, message),
            condition(ConditionType.RECONCILING, False, reason),
            condition(ConditionType.STALLED, failed, reason, message if failed else ""),
        ]
    else:
        waiting = _waiting(p)
        patience_over = (
            run.waiting_since is not None and p.now - run.waiting_since >= MISSING_PATIENCE
        )
        why, text = waiting or (Reason.PROGRESSING, "")
        current = [
            condition(ConditionType.FINISHED, False, Reason.PROGRESSING),
            condition(ConditionType.SUCCEEDED, None, Reason.PROGRESSING),
            condition(ConditionType.RECONCILING, not patience_over, why, text),
            condition(ConditionType.STALLED, patience_over, why, text if patience_over else ""),
        ]
    suspended = p.suspended and not finished
    if suspended or find(previous, ConditionType.SUSPENDED):
        why, text = Reason.SUSPENDED if suspended else Reason.RESUMED, ""
        if suspended and run.exceeded is not None:
            why = Reason.BUDGET_EXCEEDED
            text = _over_budget(run.exceeded)
        current.append(condition(ConditionType.SUSPENDED, suspended, why, text))
    degraded = [f"step {name}: {step.message}" for name, step in run.steps.items() if step.degraded]
    degraded += [
        f"onExit step {name}: {step.message}"
        for name, step in run.exit_steps.items()
        if step.degraded or step.phase is StepPhase.FAILED
    ]
    if run.concluding:
        degraded.insert(0, run.message or "")
    if degraded:
        text = "; ".join(degraded)
        why = Reason.BUDGET_EXCEEDED if run.concluding else Reason.TOLERATED_FAILURES
        current.append(condition(ConditionType.DEGRADED, True, why, text))
    return current


def _end_reason(run: Run) -> Reason:
    """Succeeded, Failed or Stopped, unless the budget ended the run."""
    if run.halted is Reason.BUDGET_EXCEEDED:
        return Reason.BUDGET_EXCEEDED
    return Reason(run.phase.value)
