"""The next state of a run from what is seen: one pass.

A pass absorbs results, applies what people and clocks ask for (shutdown, deadlines, fail-fast),
takes every step as far as it goes, and starts attempts for which it gets slots. It repeats that
until nothing changes, so that one status write holds a wave of completions and the starts that
they allow. It touches nothing outside the state that it is given.
"""

from collections.abc import Mapping

from corral.api.errors import Reason
from corral.api.types import seconds
from corral.api.workflow import StepPhase, WorkflowPhase
from corral.plan import budget
from corral.plan.attempts import absorb, claim_slots, expire, running_attempts, start
from corral.plan.expressions import ExpressionError, Template
from corral.plan.facts import NotYetKnownError
from corral.plan.frames import Frame, StepSpec
from corral.plan.keep import UnfitError, keep
from corral.plan.kinds import settle_children
from corral.plan.nodes import fold
from corral.plan.observed import Claim, Pass, Payload
from corral.plan.scope import failure_message
from corral.plan.selection import missing
from corral.plan.state import Kept, Node, Step
from corral.plan.steps import (
    advance_frame,
    advance_step,
    halt,
    has_failed,
    start_no_more,
    timed_out,
)

MISSING_PATIENCE = 300.0
"""Seconds for which something missing is waited for before the run is Stalled."""


def plan(p: Pass, claim: Claim) -> dict[str, Payload]:
    """Takes ``p.run`` to its next state; returns what each newly started attempt is sent.

    A slot that was claimed for an attempt which is not among the returned is free again. Where
    ``p.facts.needs`` is not empty afterwards, it is to be called again with those facts.
    """
    run = p.run
    main, on_exit = p.frames.main, p.frames.on_exit
    for frame in (main, on_exit):
        if run.started is None:  # until then the spec may be edited
            as_written = {name: frame.steps.get(name, Step()) for name in frame.specs}
            frame.steps.clear()
            frame.steps.update(as_written)
    absorb(p)
    settle_children(p)
    if run.finished_for_good:
        return {}
    if not _may_begin(p):
        _watch_missing(p)
        return {}
    _apply_budget_change(p)
    expire(p)
    _apply_shutdown(p)
    payloads: dict[str, Payload] = {}
    changed = True
    while changed:
        run.phase = WorkflowPhase.SUSPENDED if p.suspended else WorkflowPhase.RUNNING
        _apply_deadlines(p)
        p.starved = p.penniless = False
        p.held_agents.clear()
        p.unpaid.clear()
        p.overweight.clear()
        changed = advance_frame(p, main)
        changed = _conclude(p) or changed
        if run.outcome is not None and p.spec.shutdown != "Terminate":
            for spec in on_exit.specs.values():
                changed = advance_step(p, on_exit, spec) or changed
        if changed:
            continue
        started, changed = _start_all(p, claim)
        payloads |= started
        changed = changed or _apply_exhaustion(p)
    _watch_missing(p)
    _account_idle(p)
    _warn(p)
    _wake_for_deadlines(p)
    _finish(p)
    running = running_attempts(p)
    return {identity: sent for identity, sent in payloads.items() if identity in running}


def _start_all(p: Pass, claim: Claim) -> tuple[dict[str, Payload], bool]:
    """Starts what gets a slot; what can't be paid for leaves its place to other Agents' attempts.

    Returns:
        What each that started is sent, and whether any item is not queued any more.
    """
    payloads: dict[str, Payload] = {}
    changed = False
    while True:
        left_out = len(p.unpaid) + len(p.overweight)
        started, some = start(p, claim_slots(p, claim))
        payloads |= started
        changed = changed or some
        if len(p.unpaid) + len(p.overweight) == left_out:
            return payloads, changed


def _may_begin(p: Pass) -> bool:
    """Sets ``started`` once everything that the run refers to is there."""
    run = p.run
    if run.started is not None:
        return True
    if p.spec.shutdown is None:
        if p.suspended:
            run.phase = WorkflowPhase.SUSPENDED
            return False
        if missing(p):
            run.phase = WorkflowPhase.PENDING
            return False
    run.started = p.now
    return True


def _watch_missing(p: Pass) -> None:
    """Notes since when something has been missing, and when patience will be over."""
    if not missing(p):
        if not p.facts.needs:  # else it is not known yet
            p.run.waiting_since = None
        return
    if p.run.waiting_since is None:
        p.run.waiting_since = p.now
    over = p.run.waiting_since + MISSING_PATIENCE
    if over > p.now:
        p.wake.append(over)


def _apply_shutdown(p: Pass) -> None:
    if p.spec.shutdown is None:
        return
    if halt(p, p.frames.main, f"shutdown: {p.spec.shutdown}"):
        p.run.halted = Reason.STOPPED
        p.run.message = f"stopped by shutdown: {p.spec.shutdown}"
    if p.spec.shutdown == "Terminate":
        halt(p, p.frames.on_exit, "shutdown: Terminate")


def _apply_deadlines(p: Pass) -> None:
    """A deadline ends what is still open."""
    run, now = p.run, p.now
    for frame in list(p.frames.all()):
        for name, step in frame.steps.items():
            spec = frame.specs[name]
            if spec.deadline is None or step.queued is None or step.final:
                continue
            due = step.queued + seconds(spec.deadline)
            if due > now:
                p.wake.append(due)
                continue
            timed_out(p, frame, spec, step, f"the step's deadline of {spec.deadline} passed")
    for field, limit, due in _workflow_deadlines(p):
        why = f"the workflow's {field} of {limit} passed"
        if due <= now and halt(p, p.frames.main, why):
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


def _account_idle(p: Pass) -> None:
    """The active deadline stands still while suspended, or while people and waits are awaited."""
    active = False
    waiting = False
    for frame in p.frames.all():
        for name, step in frame.steps.items():
            for node in step.nodes:
                if node.final or node.steps is not None:
                    continue
                if _idles(frame.specs[name], node):
                    waiting = True
                else:
                    active = True
    idle = p.suspended or (waiting and not active)
    if idle and p.run.idle_since is None:
        p.run.idle_since = p.now
    elif not idle and p.run.idle_since is not None:
        p.run.idle_total += p.now - p.run.idle_since
        p.run.idle_since = None


def _idles(spec: StepSpec, node: Node) -> bool:
    if node.phase is not StepPhase.WAITING:
        return False
    return spec.wait is not None or spec.approval is not None or node.asks


def _apply_budget_change(p: Pass) -> None:
    """A run that its budget suspended goes on once the budget is another."""
    limits = p.spec.budget
    if (
        limits is None
        or limits.on_exceeded != "Suspend"
        or p.run.exceeded != budget.limit_text(limits)
    ):
        p.run.exceeded = None


def _apply_exhaustion(p: Pass) -> bool:
    """What the budget says once something could start, but nothing is left to pay for it."""
    run = p.run
    limits = p.spec.budget
    if limits is None or run.outcome is not None or run.exceeded is not None or p.suspended:
        return False
    if not p.starved or any(True for _ in _spending(p)):
        return False
    spent = run.used()
    why = (
        f"the budget of {budget.limit_text(limits)} is spent: {spent.cost_text or '0'} USD and "
        f"{spent.input_tokens + spent.output_tokens} tokens were used, "
        f"and the next step may need more than is left"
    )
    if limits.on_exceeded == "Suspend":
        run.exceeded = budget.limit_text(limits)
        p.warnings.append(why)
        return True
    run.halted = Reason.BUDGET_EXCEEDED
    run.message = why
    if limits.on_exceeded == "Fail":
        halt(p, p.frames.main, why)
        return True
    run.concluding = True
    for name, step in p.frames.main.steps.items():
        spec = p.frames.main.specs[name]
        if not step.final:
            start_no_more(p, p.frames.main, spec, step, why)
    halt(p, p.frames.main, why)
    return True


def _spending(p: Pass) -> list[str]:
    """What may still give back what is reserved for it."""
    running = list(running_attempts(p))
    running += p.run.unsettled_cost.keys() | p.run.unsettled_tokens.keys()
    for frame in p.frames.all():
        for step in frame.steps.values():
            running += [
                node.child
                for node in step.nodes
                if node.child is not None and node.phase is StepPhase.RUNNING
            ]
    return running


def _warn(p: Pass) -> None:
    """Notes the shares of the budget that were passed, once each."""
    if p.spec.budget is None or not p.spec.budget.warn_at:
        return
    for percent in budget.passed(p.spec.budget, p.run.used()):
        if percent not in p.run.warned:
            p.run.warned.append(percent)
            p.warnings.append(
                f"{percent}% of the budget of {budget.limit_text(p.spec.budget)} are spent"
            )


def _conclude(p: Pass) -> bool:
    """What the steps came to, once all have ended."""
    run, main = p.run, p.frames.main
    if run.outcome is not None or not all(step.final for step in run.steps.values()):
        return False
    failed = any(has_failed(main.specs[name], step) for name, step in run.steps.items())
    if run.halted is Reason.STOPPED:
        run.outcome = WorkflowPhase.STOPPED
    elif run.halted is not None and not (run.concluding and not failed):
        run.outcome = WorkflowPhase.FAILED
    elif failed:
        run.outcome = WorkflowPhase.FAILED
        run.message = failure_message(run.steps)
    else:
        try:
            output = _output(p)
            run.output, run.output_stored = output.value, output.stored
            run.outcome = WorkflowPhase.SUCCEEDED
        except NotYetKnownError:
            return False
        except (ExpressionError, UnfitError) as error:
            run.outcome = WorkflowPhase.SUCCEEDED if run.concluding else WorkflowPhase.FAILED
            if not run.concluding:  # else its output lacks what was not done
                run.message = f"spec.output: {error}"
    return True


def _output(p: Pass) -> Kept:
    if p.spec.output is None:
        return Kept()
    main: Frame = p.frames.main
    template = Template(p.spec.output, main.base_names)
    stored = main.scope.stored_output(template)
    return stored if stored is not None else keep(p, main.scope.render(template))


def _finish(p: Pass) -> None:
    run = p.run
    ended = all(step.final for step in (*run.steps.values(), *run.exit_steps.values()))
    if run.outcome is not None and ended:
        run.phase = run.outcome
        run.finished = p.now
        p.wake.clear()


def fail_too_large(p: Pass, size: int, limit: int) -> None:
    """Ends a run whose state would not fit into the API server, and drops its outputs."""
    why = f"the run's state of {size} bytes is over the limit of {limit}; use fewer items"
    steps: Mapping[str, Step] = p.run.steps | p.run.exit_steps
    halt(p, p.frames.main, why)
    halt(p, p.frames.on_exit, why)
    for step in steps.values():
        step.extract = None
        if step.items is not None:
            step.items = [None] * len(step.items)
        for node in step.nodes:
            node.output = None
            node.errors = []
            fold(node)
            if step.is_fan_out:
                node.message = None
    p.run.output = None
    p.run.message = why
    p.run.halted = Reason.TOO_LARGE
    p.run.outcome = p.run.phase = WorkflowPhase.FAILED
    p.run.finished = p.now
