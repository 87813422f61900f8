"""Random graphs of every kind of step, random luck: what must hold in every pass of every run."""

import os
from decimal import Decimal
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corral.api.errors import ErrorClass
from corral.api.workflow import WorkflowPhase, WorkflowSpec
from corral.plan import budget
from corral.plan.names import TOOL_RUNNER
from corral.plan.observed import Result
from tests.unit.plan.driver import RUN_ID
from tests.unit.plan.graphs import specs
from tests.unit.plan.promises import PROMISES, Seen
from tests.unit.plan.world import World, views

CHECK = settings(
    max_examples=int(os.environ.get("CORRAL_EXAMPLES", "200")),
    deadline=None,
    derandomize="CORRAL_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
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
    world.watch = lambda *seen: [promise(Seen(world, *seen)) for promise in PROMISES]
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
