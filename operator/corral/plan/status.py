"""A run as its Workflow's status shows it: rows for people, the journal for the engine."""

from collections.abc import Sequence
from typing import Any

from corral.api.errors import ConditionType, Reason
from corral.api.types import Condition
from corral.api.workflow import (
    Attention,
    ItemCounts,
    StepPhase,
    StepRow,
    WorkflowPhase,
    WorkflowSpec,
    WorkflowStatus,
)
from corral.api.workflow import Step as StepSpec
from corral.plan.conditions import condition, find, merge
from corral.plan.expressions import compact_json
from corral.plan.observed import Pass
from corral.plan.state import Node, Run, Step, to_journal
from corral.plan.times import rfc3339, rfc3339_millis
from corral.plan.validate import Problem
from corral.plan.workflow import MISSING_PATIENCE, missing_agents

ROW_OUTPUT = 256
"""Bytes of a step's output that its row shows."""
ATTENTION = 16


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
        trace_id=previous.trace_id,
        usage=used.to_usage() if used.requests else None,
        output=run.output,
        steps=[_row(specs[name], step) for name, step in steps.items()],
        attention=_attention(steps) or None,
        conditions=merge(
            previous.conditions, _conditions(p, previous.conditions), generation, p.now
        ),
    )
    # Past the model: whoever writes the status sees to it that it is not too large.
    status.journal = to_journal(run)
    return status


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
        rows["steps"] = [_row(step, Step()) for step in specs]
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


def _row(spec: StepSpec, step: Step) -> StepRow:
    used = step.used()
    row = StepRow(
        name=spec.name,
        phase=step.phase,
        agent=spec.agent_ref.name if spec.agent_ref else None,
        cost_usd=used.cost_text,
        reason=step.reason,
        message=step.message,
        extract=step.extract,
    )
    starts = [node.started for node in step.nodes if node.started is not None]
    row.started_at = rfc3339_millis(min(starts)) if starts else None
    row.finished_at = rfc3339_millis(step.finished) if step.finished is not None else None
    if step.items is not None:
        row.items = _counts(step.nodes)
    elif step.nodes:
        node = step.nodes[0]
        row.attempts = node.attempt or None
        if step.phase is StepPhase.SUCCEEDED:
            row.output = _short(node.output)
        row.reason = row.reason or node.reason
        row.message = row.message or node.message
    return row


def _counts(nodes: Sequence[Node]) -> ItemCounts:
    phases = [node.phase for node in nodes]
    return ItemCounts(
        total=len(phases),
        succeeded=phases.count(StepPhase.SUCCEEDED),
        failed=phases.count(StepPhase.FAILED),
        running=phases.count(StepPhase.RUNNING),
        omitted=phases.count(StepPhase.OMITTED) + phases.count(StepPhase.CANCELLED),
    )


def _short(output: Any) -> Any:
    if isinstance(output, str):
        encoded = output.encode()
        if len(encoded) <= ROW_OUTPUT:
            return output
        return encoded[: ROW_OUTPUT - 3].decode(errors="ignore") + "…"
    text = compact_json(output)
    return output if len(text.encode()) <= ROW_OUTPUT else _short(text)


def _attention(steps: dict[str, Step]) -> list[Attention]:
    """Failed items first, then those that run or are tried again."""
    found: list[tuple[int, Attention]] = []
    for name, step in steps.items():
        if step.items is None:
            continue
        for index, node in enumerate(step.nodes):
            if node.phase is StepPhase.FAILED:
                rank = 0
            elif node.phase is StepPhase.RUNNING or (node.reason and not node.final):
                rank = 1
            else:
                continue
            shown = Attention(
                name=f"{name}[{index}]",
                phase=node.phase,
                attempt=node.attempt or None,
                message=(node.message or "")[:256] or None,
            )
            found.append((rank, shown))
    return [shown for _, shown in sorted(found, key=lambda pair: pair[0])[:ATTENTION]]


def _waiting(p: Pass) -> tuple[Reason, str] | None:
    """What the run waits for that people may have to act on."""
    for name in missing_agents(p):
        fields = [
            f"spec.{field}[{index}].agentRef"
            for field, specs in (("steps", p.spec.steps), ("onExit", p.spec.on_exit))
            for index, spec in enumerate(specs or [])
            if spec.agent_ref and spec.agent_ref.name == name
        ]
        view = p.agents.get(name)
        if view is None:
            return Reason.AGENT_NOT_FOUND, f"{fields[0]}: there is no Agent {name!r}"
        return view.reason, f"{fields[0]}: Agent {name!r} is not ready: {view.message}"
    queued = {
        spec.agent_ref.name
        for spec in [*(p.spec.steps or []), *(p.spec.on_exit or [])]
        if spec.agent_ref
        and any(
            node.phase is StepPhase.QUEUED
            for node in (p.run.steps.get(spec.name) or p.run.exit_steps[spec.name]).nodes
        )
    }
    for name in sorted(queued):
        if (view := p.agents.get(name)) and view.capacity_problem:
            return Reason.NO_CAPACITY, f"Agent {name!r}: {view.capacity_problem}"
    return None


def _waiting_message(p: Pass) -> str:
    waiting = None if p.run.finished_for_good else _waiting(p)
    return waiting[1] if waiting else ""


def _conditions(p: Pass, previous: Sequence[Condition]) -> list[Condition]:
    run: Run = p.run
    finished = run.finished_for_good
    message = run.message or ""
    if finished:
        reason: Reason | str = run.halted or Reason(run.phase.value)
        succeeded: bool | None = run.phase is WorkflowPhase.SUCCEEDED
        failed = run.phase is WorkflowPhase.FAILED
        current = [
            condition(ConditionType.FINISHED, True, Reason(run.phase.value), message),
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
        why = Reason.SUSPENDED if suspended else Reason.RESUMED
        current.append(condition(ConditionType.SUSPENDED, suspended, why))
    degraded = [f"step {name}: {step.message}" for name, step in run.steps.items() if step.degraded]
    degraded += [
        f"onExit step {name}: {step.message}"
        for name, step in run.exit_steps.items()
        if step.degraded or step.phase is StepPhase.FAILED
    ]
    if degraded:
        text = "; ".join(degraded)
        current.append(condition(ConditionType.DEGRADED, True, Reason.TOLERATED_FAILURES, text))
    return current
