"""What must hold in every pass of every run."""

from dataclasses import dataclass
from decimal import Decimal

from corral.api.workflow import (
    FINAL_STEP_PHASES,
    FINAL_WORKFLOW_PHASES,
    StepPhase,
    WorkflowStatus,
)
from corral.plan import budget
from corral.plan.attempts import running_attempts
from corral.plan.frames import Frame, StepSpec
from corral.plan.observed import Pass, Payload
from corral.plan.state import Step
from corral.plan.steps import RUNS_AFTER_FAILURE, seen_by_dependents
from corral.plan.triggers import Trigger, evaluate
from tests.unit.plan.world import World, asked_in, nodes_of


@dataclass(frozen=True)
class Seen:
    """One pass: what was before it, what came of it, and the world, which does not know yet."""

    world: World
    before: WorkflowStatus
    after: WorkflowStatus
    pass_: Pass
    payloads: dict[str, Payload]


def what_has_ended_stays_as_it_is(seen: Seen) -> None:
    world, before, after, p = seen.world, seen.before, seen.after, seen.pass_
    rows = {row.name: row for row in after.steps or []}
    specs = [*(world.spec.steps or []), *(world.spec.on_exit or [])]
    assert list(rows) == [step.name for step in specs]
    for old in before.steps or []:
        if old.phase in FINAL_STEP_PHASES:
            assert rows[old.name] == old
        elif old.phase is not StepPhase.PENDING:
            assert rows[old.name].phase is not StepPhase.PENDING
    if before.phase in FINAL_WORKFLOW_PHASES:
        assert (after.phase, after.finished_at) == (before.phase, before.finished_at)
        assert not seen.payloads
    if after.phase in FINAL_WORKFLOW_PHASES:
        assert all(row.phase in FINAL_STEP_PHASES for row in rows.values())
        assert all(node.final for _, _, _, node in nodes_of(p))
        assert after.message or after.phase == "Succeeded"
        if after.phase == "Succeeded":
            failed = [step for step in world.spec.steps or [] if rows[step.name].phase == "Failed"]
            assert all(step.allow_failure for step in failed)
    done = sum(row.phase in FINAL_STEP_PHASES for row in rows.values())
    assert after.progress == f"{done}/{len(rows)}"
    assert len(after.attention or []) <= 16
    for row in rows.values():
        if row.items is not None and row.phase in FINAL_STEP_PHASES:
            counts = row.items
            ended = counts.succeeded + counts.failed + counts.omitted + counts.cancelled
            assert ended == counts.total
            assert counts.running == counts.queued == counts.waiting == 0


def nothing_starts_before_its_time(seen: Seen) -> None:
    world, before, p, payloads = seen.world, seen.before, seen.pass_, seen.payloads
    run, spec = p.run, world.spec
    for frame in p.frames.with_ended():
        for name, step in frame.steps.items():
            if step.queued is not None:
                assert _trigger(frame, frame.specs[name]) is Trigger.HOLDS
            if step.queued is not None and frame.is_exit:
                assert all(one.final for one in run.steps.values())
    held = spec.suspend or (run.exceeded and world.state(before).exceeded)
    if (held and not spec.shutdown) or spec.shutdown == "Terminate":
        assert not payloads
    failed = [
        row.name
        for row in before.steps or []
        if row.name in run.steps
        and row.phase is StepPhase.FAILED
        and not p.frames.main.specs[row.name].allow_failure
    ]
    if spec.fail_fast and failed:
        places = running_attempts(p)
        for identity in payloads:
            frame, own, step, index = places[identity]
            outermost = _outermost(frame) or own.name
            if outermost in run.steps and not step.nodes[index].calls:
                outer = p.frames.main.specs[outermost]
                assert outer.trigger_rule in RUNS_AFTER_FAILURE


def _outermost(frame: Frame) -> str:
    return frame.path.split("~", 1)[0]


def _trigger(frame: Frame, spec: StepSpec) -> Trigger:
    dependencies = [
        (seen_by_dependents(frame.specs[name], frame.steps[name]), frame.specs[name].allow_failure)
        for name in spec.depends_on or []
    ]
    return evaluate(spec.trigger_rule, dependencies)


def bounds_are_kept(seen: Seen) -> None:
    world, p = seen.world, seen.pass_
    if world.spec.parallelism is not None:
        assert len(running_attempts(p)) <= world.spec.parallelism
    for frame in p.frames.with_ended():
        for name, step in frame.steps.items():
            each = frame.specs[name].for_each
            if each is not None and each.max_concurrent is not None:
                assert _busy(frame.specs[name], step) <= each.max_concurrent


def _busy(spec: StepSpec, step: Step) -> int:
    waits = spec.wait is not None or spec.approval is not None
    return sum(
        node.phase is StepPhase.RUNNING
        or (node.phase is StepPhase.WAITING and (waits or bool(node.calls)))
        for node in step.nodes
    )


def attempts_start_once_and_are_accounted_for(seen: Seen) -> None:
    world, p, payloads = seen.world, seen.pass_, seen.payloads
    running = running_attempts(p)
    assert not payloads.keys() & world.sent.keys()
    assert payloads.keys() <= running.keys()
    known = world.sent.keys() | payloads.keys()
    assert known == running.keys() | p.run.unsettled.keys() | world.told
    assert not running.keys() & world.told
    for sent in payloads.values():
        if sent.conversation is not None:  # people have said something to each of its calls
            asked = {call.call_id for call in asked_in(sent.conversation)}
            assert {decision.call_id for decision in sent.decisions} == asked


def usage_is_booked_once(seen: Seen) -> None:
    world, after, p = seen.world, seen.after, seen.pass_
    used = p.run.used()
    unseen = [name for name in p.run.unsettled_children if world.children[name].finished]
    assert not unseen
    going_on = {
        node.child
        for _, _, _, node in nodes_of(p)
        if node.phase is StepPhase.RUNNING and node.child is not None
    }
    spent = world.spent.model_copy()
    spent.add(world.exit_spent)
    for name in going_on:
        view = world.children.get(name)
        assert view is None or not view.finished
    assert used.requests == spent.requests
    assert used.input_tokens == spent.input_tokens
    assert (used.cost or 0) == (spent.cost or 0)
    rows = sum((Decimal(row.cost_usd) for row in after.steps or [] if row.cost_usd), Decimal(0))
    assert rows + (p.run.late.cost or 0) == (used.cost or 0)
    for _, _, _, node in nodes_of(p):
        assert not (node.memoized and node.used.requests)
        if node.final or (node.worker is None and node.child is None):
            assert not node.reserved
            assert not node.reserved_tokens


def the_budget_is_kept(seen: Seen) -> None:
    world, p, payloads = seen.world, seen.pass_, seen.payloads
    limits = world.spec.budget
    assert len(p.run.warned) == len(set(p.run.warned))
    if limits is None or p.run.outcome is not None:
        return  # onExit is not held back
    for held in (budget.reserved(p.run), world.may_still_use(payloads)):
        if limits.max_cost_usd is not None:
            most = Decimal(limits.max_cost_usd) + (world.overshoot.cost or 0)
            assert (world.spent.cost or 0) + (held.cost or 0) <= most
        if limits.max_tokens is not None:
            tokens = limits.max_tokens + world.overshoot.input_tokens
            assert world.spent.input_tokens + held.tokens <= tokens


def no_result_is_worked_out_twice(seen: Seen) -> None:
    p = seen.pass_
    under_way = [node.memo for _, _, _, node in nodes_of(p) if node.memo and not node.final]
    assert len(under_way) == len(set(under_way))


PROMISES = [
    what_has_ended_stays_as_it_is,
    nothing_starts_before_its_time,
    bounds_are_kept,
    attempts_start_once_and_are_accounted_for,
    usage_is_booked_once,
    the_budget_is_kept,
    no_result_is_worked_out_twice,
]
