"""Random graphs of every kind of step, random luck: what must hold in every pass of every run."""

import os
from collections.abc import Sequence
from decimal import Decimal
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.api.errors import ErrorClass
from corral.api.workflow import (
    FINAL_STEP_PHASES,
    FINAL_WORKFLOW_PHASES,
    StepPhase,
    WorkflowPhase,
    WorkflowSpec,
    WorkflowStatus,
)
from corral.plan import budget
from corral.plan.attempts import running_attempts
from corral.plan.frames import Frame, StepSpec
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import Pass, Payload, Result
from corral.plan.state import Step
from corral.plan.steps import RUNS_AFTER_FAILURE, seen_by_dependents
from corral.plan.triggers import Trigger, evaluate
from tests.unit.plan.driver import RUN_ID
from tests.unit.plan.graphs import specs
from tests.unit.plan.world import World, asked_in, nodes_of, views

CHECK = settings(
    max_examples=int(os.environ.get("CORRAL_EXAMPLES", "200")),
    deadline=None,
    derandomize="CORRAL_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def what_has_ended_stays_as_it_is(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
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
        assert not payloads
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


def nothing_starts_before_its_time(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
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


def bounds_are_kept(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
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


def attempts_start_once_and_are_accounted_for(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
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


def usage_is_booked_once(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
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


def the_budget_is_kept(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
    limits = world.spec.budget
    assert len(p.run.warned) == len(set(p.run.warned))
    if limits is None or p.run.outcome is not None:
        return  # onExit is not held back
    held = budget.reserved(p.run)
    if limits.max_cost_usd is not None:
        most = Decimal(limits.max_cost_usd) + (world.overshoot.cost or 0)
        assert (world.spent.cost or 0) + (held.cost or 0) <= most
    if limits.max_tokens is not None:
        assert world.spent.input_tokens + held.tokens <= (
            limits.max_tokens + world.overshoot.input_tokens
        )


def no_result_is_worked_out_twice(
    world: World,
    before: WorkflowStatus,
    after: WorkflowStatus,
    p: Pass,
    payloads: dict[str, Payload],
    results: Sequence[Result],
) -> None:
    under_way = [node.memo for _, _, _, node in nodes_of(p) if node.memo and not node.final]
    assert len(under_way) == len(set(under_way))


CHECKS = [
    what_has_ended_stays_as_it_is,
    nothing_starts_before_its_time,
    bounds_are_kept,
    attempts_start_once_and_are_accounted_for,
    usage_is_booked_once,
    the_budget_is_kept,
    no_result_is_worked_out_twice,
]

ACTIONS = [
    *("look", "tell", "tell", "tell", "tell", "strange", "wake", "wake", "suspend", "resume"),
    *("decide", "decide", "child", "child", "away", "foreign", "budget", "time"),
]


def act(world: World, luck: Random, rough: bool) -> None:
    """Something happens."""
    match luck.choice(ACTIONS):
        case "look":
            world.look()
        case "tell" if world.open_attempts():
            attempts = world.open_attempts()
            some = luck.sample(attempts, k=luck.randint(1, len(attempts)))
            errors = [*[None] * 24, *ErrorClass] if rough else [None]
            told = [
                world.result(one, luck.choice(errors), asks=luck.random() < 0.3) for one in some
            ]
            world.tell(told + luck.sample(told, k=luck.randint(0, len(told))))
        case "strange" if world.sent:
            identity = luck.choice(list(world.sent))
            result = world.result(identity)
            foreign = Result(identity, "u-other", result.used, result.output)
            world.tell([foreign, *([result] if identity in world.told else [])])
        case "wake" if world.wake:
            world.now = luck.choice(sorted(world.wake))
            world.look()
        case "suspend":
            world.spec = world.spec.model_copy(update={"suspend": True})
        case "resume":
            world.spec = world.spec.model_copy(update={"suspend": None})
        case "decide" if world.open_approvals():
            verdict = luck.choice(["Approve", "Approve", "Reject"])
            world.decide(luck.choice(world.open_approvals()), verdict)
        case "child" if world.open_children():
            phases = [WorkflowPhase.SUCCEEDED, WorkflowPhase.FAILED, WorkflowPhase.STOPPED]
            phase = luck.choice(phases if rough else phases[:1])
            world.end_child(luck.choice(world.open_children()), phase)
            world.look()
        case "away" if rough:
            world.agents = views(luck.randint(0, 5))
            if luck.random() < 0.5:
                world.agents.pop(luck.choice(["x", "y", TOOL_RUNNER]))
        case "foreign" if world.foreign:
            world.land(luck.choice([True, False]))
        case "foreign" if world.flights:
            world.foreign = set(luck.sample(sorted(world.flights), k=1))
        case "budget" if world.spec.budget and world.status.phase == "Suspended":
            raise_budget(world, Decimal("0.02"))
        case _:
            world.now += luck.random() * 5
            if rough and luck.random() < 0.1:
                how = luck.choice(["Stop", "Terminate"])
                world.spec = world.spec.model_copy(update={"shutdown": how})


def raise_budget(world: World, more: Decimal) -> None:
    limits = world.spec.budget
    assert limits is not None
    update: dict[str, object] = {}
    if limits.max_cost_usd is not None:
        update["max_cost_usd"] = str(Decimal(limits.max_cost_usd) + more)
    if limits.max_tokens is not None:
        update["max_tokens"] = limits.max_tokens + int(more * 10**6)
    world.spec = world.spec.model_copy(update={"budget": limits.model_copy(update=update)})


def let_it_end(world: World) -> None:
    """Everybody does what is asked of them."""
    world.spec = world.spec.model_copy(update={"suspend": None})
    world.generous = True
    world.land(False)
    world.agents = views(0)
    for _ in range(600):
        if world.ended and not world.open_attempts() and not world.open_children():
            break
        if world.status.phase == "Suspended" and world.spec.budget:
            raise_budget(world, Decimal(100))
        for name in world.open_approvals():
            world.decide(name, "Approve")
        if world.open_attempts():
            asks = world.luck.random() < 0.15
            world.tell([world.result(identity, asks=asks) for identity in world.open_attempts()])
        elif world.open_children():
            for name in world.open_children():
                world.end_child(name, WorkflowPhase.SUCCEEDED)
            world.look()
        elif world.wake:
            world.now = min(world.wake)
            world.look()
        else:  # what was decided just now, or refused before, may be all that it waits for
            at_rest = world.status
            world.look()
            assert world.status != at_rest, "the run waits for nothing"
    world.look()


@CHECK
@given(spec=specs(), seed=st.integers(0, 2**32), rough=st.booleans())
def test_every_run_keeps_its_promises_and_ends(spec: WorkflowSpec, seed: int, rough: bool) -> None:
    luck = Random(seed)
    world = World(spec, luck)
    world.checks = list(CHECKS)
    world.look()
    for _ in range(luck.randint(0, 25)):
        act(world, luck, rough)
    let_it_end(world)
    run = world.state(world.status)
    assert world.ended
    assert not run.unsettled
    assert not run.unsettled_children
    assert not run.unsettled_cost
    assert not run.unsettled_tokens
    assert budget.reserved(run) == budget.Reservation(Decimal(0), 0)
    assert all(identity.startswith(RUN_ID) for identity in world.sent)
