"""The next state of a run from what is seen: one pass.

A pass absorbs results, applies what people and clocks ask for (shutdown, deadlines, fail-fast),
takes every step as far as it goes, and starts attempts for which it gets slots. It repeats that
until nothing changes, so that one status write holds a wave of completions and the starts that
they allow. It touches nothing outside the state that it is given.
"""

from collections.abc import Mapping

from corral.api.errors import ErrorClass, Reason
from corral.api.types import seconds
from corral.api.workflow import Step as StepSpec
from corral.api.workflow import StepPhase, WorkflowPhase
from corral.plan.attempts import (
    absorb,
    claim_slots,
    expire,
    give_up,
    payload,
    running_nodes,
    start,
)
from corral.plan.expressions import ExpressionError, Template
from corral.plan.observed import Claim, Pass, Payload
from corral.plan.scope import BASE_NAMES, failure_message
from corral.plan.state import Node, Step
from corral.plan.steps import RUNS_AFTER_FAILURE, advance_step, fail, settle, tolerated

MISSING_PATIENCE = 300.0
"""Seconds for which a missing Agent is waited for before the run is Stalled."""


def plan(p: Pass, claim: Claim) -> dict[str, Payload]:
    """Takes ``p.run`` to its next state; returns what each newly started attempt is sent.

    A slot that was claimed for an attempt which is not among the returned is free again.
    """
    run = p.run
    main = {step.name: step for step in p.spec.steps or []}
    on_exit = {step.name: step for step in p.spec.on_exit or []}
    for name in main:
        run.steps.setdefault(name, Step())
    for name in on_exit:
        run.exit_steps.setdefault(name, Step())
    specs = main | on_exit
    steps = run.steps | run.exit_steps
    absorb(p, specs, steps)
    if run.finished_for_good:
        return {}
    if not _may_begin(p, specs):
        _watch_missing(p, specs)
        return {}
    run.phase = WorkflowPhase.SUSPENDED if p.suspended else WorkflowPhase.RUNNING
    payloads: dict[str, Payload] = {}
    expire(p, specs, steps)
    _apply_shutdown(p, main, on_exit)
    changed = True
    while changed:
        _apply_deadlines(p, specs)
        changed = _advance(p, main)
        if run.outcome is not None and p.spec.shutdown != "Terminate":
            for spec in on_exit.values():
                changed = advance_step(p, spec, run.exit_steps, on_exit) or changed
        if changed:
            continue
        active = run.steps if run.outcome is None else steps
        slots = claim_slots(p, specs, active, claim)
        payloads |= start(p, specs, active, slots)
        changed = bool(slots)
    _watch_missing(p, specs)
    _account_idle(p, specs, steps)
    _wake_for_deadlines(p)
    _finish(p, steps)
    running = running_attempts(p)
    return {identity: sent for identity, sent in payloads.items() if identity in running}


def running_attempts(p: Pass) -> dict[str, tuple[StepSpec, Step, int]]:
    """The attempts that should be running, by attempt id."""
    specs = {step.name: step for step in [*(p.spec.steps or []), *(p.spec.on_exit or [])]}
    steps = p.run.steps | p.run.exit_steps
    return {
        p.step_id(spec, index, node.attempt): (spec, steps[spec.name], index)
        for spec, index, node in running_nodes(specs, steps)
    }


def payload_of(p: Pass, attempt: str) -> Payload | None:
    """What a running attempt's worker was sent, rendered again; None if it does not run.

    Raises:
        ExpressionError: the input can't be rendered.
    """
    found = running_attempts(p).get(attempt)
    return payload(p, *found) if found else None


def _may_begin(p: Pass, specs: Mapping[str, StepSpec]) -> bool:
    """Sets ``started`` once everything that the run refers to is there."""
    run = p.run
    if run.started is not None:
        return True
    if p.spec.shutdown is None:
        if p.suspended:
            run.phase = WorkflowPhase.SUSPENDED
            return False
        if missing_agents(p, specs):
            run.phase = WorkflowPhase.PENDING
            return False
    run.started = p.now
    return True


def _watch_missing(p: Pass, specs: Mapping[str, StepSpec]) -> None:
    """Notes since when something has been missing, and when patience will be over."""
    if not missing_agents(p, specs):
        p.run.waiting_since = None
        return
    if p.run.waiting_since is None:
        p.run.waiting_since = p.now
    over = p.run.waiting_since + MISSING_PATIENCE
    if over > p.now:
        p.wake.append(over)


def missing_agents(p: Pass, specs: Mapping[str, StepSpec] | None = None) -> list[str]:
    """The Agents that unfinished steps need and that are absent or not ready, by name."""
    if specs is None:
        specs = {step.name: step for step in [*(p.spec.steps or []), *(p.spec.on_exit or [])]}
    steps = p.run.steps | p.run.exit_steps
    names = {
        spec.agent_ref.name
        for spec in specs.values()
        if spec.agent_ref and not steps[spec.name].final
    }
    return sorted(name for name in names if not (name in p.agents and p.agents[name].ready))


def _advance(p: Pass, main: dict[str, StepSpec]) -> bool:
    changed = _apply_fail_fast(p, main)  # before anything begins that a failure rules out
    for spec in main.values():
        changed = advance_step(p, spec, p.run.steps, main) or changed
    changed = _apply_fail_fast(p, main) or changed
    return _conclude(p, main) or changed


def _apply_fail_fast(p: Pass, main: dict[str, StepSpec]) -> bool:
    """After a failure nothing new starts, but for steps that wait for one."""
    culprit = next(
        (name for name, step in p.run.steps.items() if _has_failed(main[name], step)), None
    )
    if culprit is None or not p.spec.fail_fast:
        return False
    changed = False
    for name, step in p.run.steps.items():
        spec = main[name]
        if step.final or spec.trigger_rule in RUNS_AFTER_FAILURE:
            continue
        if step.phase is StepPhase.PENDING:
            why = f"not started, because step {culprit} failed"
            step.end(StepPhase.OMITTED, p.now, "Omitted", why)
            changed = True
            continue
        ended = [_start_no_more(p, spec, node, culprit) for node in step.nodes]
        if any(ended):
            changed = True
            settle(p, spec, step)
    return changed


def _has_failed(spec: StepSpec, step: Step) -> bool:
    if spec.allow_failure:
        return False
    if step.final:
        return step.phase is StepPhase.FAILED
    failed = sum(node.phase is StepPhase.FAILED for node in step.nodes)
    return not tolerated(spec, failed, len(step.nodes))


def _start_no_more(p: Pass, spec: StepSpec, node: Node, culprit: str) -> bool:
    backing_off = node.phase is StepPhase.WAITING and spec.wait is None
    if node.phase is not StepPhase.QUEUED and not backing_off:
        return False
    if node.attempt:  # it has failed once, and is not tried again
        node.end(StepPhase.FAILED, p.now, node.reason or "", node.message or "")
    else:
        why = f"not started, because step {culprit} failed"
        node.end(StepPhase.OMITTED, p.now, "Omitted", why)
    return True


def halt(p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step], why: str) -> bool:
    """Ends everything: what runs or waits is Cancelled, what never started Omitted."""
    changed = False
    for name, step in steps.items():
        if step.final:
            continue
        changed = True
        if step.phase is not StepPhase.PENDING and all(node.final for node in step.nodes):
            settle(p, specs[name], step)  # it ended in this very pass
            continue
        for index, node in enumerate(step.nodes):
            if not node.final:
                give_up(p, specs[name], index, node)
                phase = _stopped_as(node)
                node.end(phase, p.now, phase.value, why)
        phase = _stopped_as(*step.nodes)
        step.end(phase, p.now, phase.value, why)
    return changed


def _stopped_as(*nodes: Node) -> StepPhase:
    begun = any(node.started is not None for node in nodes)
    return StepPhase.CANCELLED if begun else StepPhase.OMITTED


def _apply_shutdown(p: Pass, main: dict[str, StepSpec], on_exit: dict[str, StepSpec]) -> None:
    if p.spec.shutdown is None:
        return
    if halt(p, main, p.run.steps, f"shutdown: {p.spec.shutdown}"):
        p.run.halted = Reason.STOPPED
        p.run.message = f"stopped by shutdown: {p.spec.shutdown}"
    if p.spec.shutdown == "Terminate":
        halt(p, on_exit, p.run.exit_steps, "shutdown: Terminate")


def _apply_deadlines(p: Pass, specs: Mapping[str, StepSpec]) -> None:
    """A deadline ends what is still open; a fan-out has failed then, whatever it tolerates."""
    run, now = p.run, p.now
    for name, step in (run.steps | run.exit_steps).items():
        deadline = specs[name].deadline
        if deadline is None or step.queued is None or step.final:
            continue
        due = step.queued + seconds(deadline)
        if due > now:
            p.wake.append(due)
            continue
        late = [index for index, node in enumerate(step.nodes) if not node.final]
        why = f"the step's deadline of {deadline} passed"
        for index in late:
            give_up(p, specs[name], index, step.nodes[index])
            step.nodes[index].end(StepPhase.FAILED, now, ErrorClass.TIMEOUT, why)
        if late and step.items is not None:
            why += f" before {len(late)} of {len(step.nodes)} items had ended"
        if late:
            fail(p, specs[name], step, ErrorClass.TIMEOUT, why)
    for field, limit, due in _workflow_deadlines(p):
        why = f"the workflow's {field} of {limit} passed"
        if due <= now and halt(p, specs, run.steps, why):
            run.halted = Reason.DEADLINE_EXCEEDED
            run.message = why


def _workflow_deadlines(p: Pass) -> list[tuple[str, str, float]]:
    """The run's deadlines that still matter, and when they pass if it does not idle from now."""
    run = p.run
    if run.outcome is not None or run.started is None:
        return []
    found = []
    if p.spec.deadline is not None:
        found.append(("deadline", p.spec.deadline, run.started + seconds(p.spec.deadline)))
    if p.spec.active_deadline is not None:
        due = run.started + seconds(p.spec.active_deadline) + _idle_seconds(p)
        found.append(("activeDeadline", p.spec.active_deadline, due))
    return found


def _wake_for_deadlines(p: Pass) -> None:
    for field, _, due in _workflow_deadlines(p):
        if field == "deadline" or p.run.idle_since is None:
            p.wake.append(due)


def _idle_seconds(p: Pass) -> float:
    current = p.now - p.run.idle_since if p.run.idle_since is not None else 0.0
    return p.run.idle_total + current


def _account_idle(p: Pass, specs: Mapping[str, StepSpec], steps: Mapping[str, Step]) -> None:
    """The active deadline stands still while suspended, or while only waits are outstanding."""
    open_nodes = [
        (specs[name], node) for name, step in steps.items() for node in step.nodes if not node.final
    ]
    only_waits = bool(open_nodes) and all(
        node.phase is StepPhase.WAITING and spec.wait is not None for spec, node in open_nodes
    )
    idle = p.suspended or only_waits
    if idle and p.run.idle_since is None:
        p.run.idle_since = p.now
    elif not idle and p.run.idle_since is not None:
        p.run.idle_total += p.now - p.run.idle_since
        p.run.idle_since = None


def _conclude(p: Pass, main: dict[str, StepSpec]) -> bool:
    """What the steps came to, once all have ended."""
    run = p.run
    if run.outcome is not None or not all(step.final for step in run.steps.values()):
        return False
    failed = any(_has_failed(main[name], step) for name, step in run.steps.items())
    if run.halted is Reason.STOPPED:
        run.outcome = WorkflowPhase.STOPPED
    elif run.halted is not None:
        run.outcome = WorkflowPhase.FAILED
    elif failed:
        run.outcome = WorkflowPhase.FAILED
        run.message = failure_message(run.steps)
    else:
        run.outcome = WorkflowPhase.SUCCEEDED
        try:
            if p.spec.output is not None:
                run.output = p.scope.render(Template(p.spec.output, BASE_NAMES))
        except ExpressionError as error:
            run.outcome = WorkflowPhase.FAILED
            run.message = f"spec.output: {error}"
    return True


def _finish(p: Pass, steps: Mapping[str, Step]) -> None:
    run = p.run
    if run.outcome is not None and all(step.final for step in steps.values()):
        run.phase = run.outcome
        run.finished = p.now
        p.wake.clear()


def fail_too_large(p: Pass, size: int, limit: int) -> None:
    """Ends a run whose state would not fit into the API server, and drops its outputs."""
    specs = {step.name: step for step in [*(p.spec.steps or []), *(p.spec.on_exit or [])]}
    why = f"the run's state of {size} bytes is over the limit of {limit}; return smaller outputs"
    steps = p.run.steps | p.run.exit_steps
    halt(p, specs, steps, why)
    for step in steps.values():
        step.extract = None
        for node in step.nodes:
            node.output = None
        if step.items is not None:
            step.items = [None] * len(step.items)
            for node in step.nodes:
                node.message = None
    p.run.output = None
    p.run.message = why
    p.run.halted = Reason.TOO_LARGE
    p.run.outcome = p.run.phase = WorkflowPhase.FAILED
    p.run.finished = p.now
