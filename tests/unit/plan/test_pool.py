"""How pools grow, shrink, roll out and give up: the planner run against a fleet in memory."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.api.pool import PoolSpec
from corral.plan.pool import Member, divide, recommended
from tests.unit.plan.fleet import Fleet, autoscaled, spec


@pytest.mark.parametrize(
    ("pool", "steps", "workers"),
    [
        pytest.param(spec(), 100, 1, id="without autoscaling spec.replicas rules"),
        pytest.param(spec(replicas=0), 100, 0, id="zero replicas stay zero"),
        pytest.param(autoscaled(), 0, 0, id="no work, no workers"),
        pytest.param(autoscaled(low=2), 0, 2, id="never below minReplicas"),
        pytest.param(autoscaled(), 1, 1, id="one step wants one worker"),
        pytest.param(autoscaled(), 4, 1, id="a full worker is enough"),
        pytest.param(autoscaled(), 5, 2, id="one step more wants another"),
        pytest.param(autoscaled(), 1000, 10, id="never above maxReplicas"),
        pytest.param(
            autoscaled(target=1), 3, 3, id="targetStepsPerReplica goes before concurrency"
        ),
    ],
)
def test_the_number_of_workers_follows_the_steps(pool: PoolSpec, steps: int, workers: int) -> None:
    assert recommended(pool, steps) == workers


def test_a_pool_grows_at_once() -> None:
    fleet = Fleet(autoscaled())
    plan = fleet.tick(queued=9)
    assert plan.desired == 3
    assert len(plan.create) == 3


def test_a_pool_shrinks_only_after_the_stabilisation_window() -> None:
    fleet = Fleet(autoscaled())
    fleet.settle(queued=9, seconds=5)
    fleet.settle(queued=0, seconds=59)
    assert len(fleet.pods) == 3
    plan = fleet.settle(queued=0, seconds=5)
    assert len(fleet.pods) == 0
    assert plan.desired == 0


def test_a_short_lull_does_not_cost_workers() -> None:
    fleet = Fleet(autoscaled())
    for _ in range(10):
        fleet.settle(queued=9, seconds=5)
        fleet.settle(queued=0, seconds=40)
    assert fleet.made == 3


def test_a_pool_that_shrinks_wakes_itself_when_the_window_ends() -> None:
    fleet = Fleet(autoscaled())
    fleet.settle(queued=9, seconds=5)
    plan = fleet.tick(queued=0)
    assert plan.wake is not None
    assert 59 <= plan.wake - fleet.now <= 61


def test_scale_down_takes_idle_workers_and_lets_busy_ones_finish() -> None:
    fleet = Fleet(spec(replicas=3, drainTimeout="5m"))
    fleet.settle(seconds=5)
    busy = sorted(fleet.pods)[0]
    fleet.busy[busy] = 1
    fleet.pool = spec(replicas=1, drainTimeout="5m")
    fleet.settle(seconds=10)
    assert set(fleet.pods) == {busy}
    fleet.pool = spec(replicas=0, drainTimeout="5m")
    fleet.settle(seconds=100)
    assert set(fleet.pods) == {busy}, "it drains"
    fleet.busy.clear()
    fleet.settle(seconds=3)
    assert not fleet.pods


def test_a_worker_that_does_not_drain_in_time_goes_anyway() -> None:
    fleet = Fleet(spec(replicas=1, drainTimeout="30s"))
    fleet.settle(seconds=5)
    fleet.busy[next(iter(fleet.pods))] = 1
    fleet.pool = spec(replicas=0, drainTimeout="30s")
    fleet.settle(seconds=29)
    assert fleet.pods
    fleet.settle(seconds=4)
    assert not fleet.pods


def test_a_new_revision_replaces_all_workers_within_the_surge() -> None:
    fleet = Fleet(spec(replicas=3, drainTimeout="5m"))
    fleet.settle(seconds=5)
    for name in fleet.pods:
        fleet.busy[name] = 1
    fleet.revision = "r2"
    fleet.settle(seconds=10)
    assert fleet.revisions() == {"r1", "r2"}, "the busy ones stay, one new one is there"
    assert len(fleet.pods) == 4
    fleet.busy.clear()
    fleet.settle(seconds=10)
    assert fleet.revisions() == {"r2"}
    assert len(fleet.pods) == 3
    assert fleet.most == 4


def test_a_dead_worker_is_replaced_under_another_name() -> None:
    fleet = Fleet(spec(replicas=2))
    fleet.settle(seconds=5)
    dead = sorted(fleet.pods)[0]
    slot = fleet.pods[dead].slot
    fleet.pods[dead] = replace(fleet.pods[dead], ended=True, ready=False)
    plan = fleet.tick()
    assert [pod.name for pod in plan.delete] == [dead]
    assert len(plan.create) == 1
    assert plan.create[0][0] != dead
    assert plan.create[0][1] == slot, "its slot is free again"


def test_a_pod_that_is_going_keeps_its_name() -> None:
    fleet = Fleet(spec(replicas=1))
    fleet.settle(seconds=5)
    (name,) = fleet.pods
    fleet.pods[name] = replace(fleet.pods[name], deleting=True)
    plan = fleet.tick()
    assert [made for made, _ in plan.create] != [name]
    assert len(plan.create) == 1


def test_workers_that_die_young_are_replaced_ever_more_slowly() -> None:
    fleet = Fleet(spec(replicas=1))
    for _ in range(120):
        fleet.tick()
        for name, pod in fleet.pods.items():
            fleet.pods[name] = replace(
                pod, ended=True, problem="ended with exit code 1", created=1e9
            )
    assert 6 <= fleet.made <= 10


def test_why_a_pod_does_not_start_is_told() -> None:
    fleet = Fleet(spec(replicas=1))
    fleet.tick()
    (name,) = fleet.pods
    fleet.pods[name] = replace(fleet.pods[name], problem="ErrImagePull", created=1e9)
    assert fleet.tick().problem == "ErrImagePull"


def test_a_worker_that_was_told_to_drain_is_never_asked_back() -> None:
    fleet = Fleet(spec(replicas=2))
    fleet.settle(seconds=5)
    youngest = max(fleet.pods, key=lambda name: (fleet.pods[name].created, name))
    fleet.clings.add(youngest)
    fleet.pool = spec(replicas=1)
    fleet.settle(seconds=5)
    assert fleet.pods[youngest].draining
    fleet.pool = spec(replicas=2)
    fleet.settle(seconds=5)
    assert len(fleet.serving()) == 2, "another was made in its place"
    fleet.clings.clear()
    fleet.settle(seconds=5)
    assert youngest not in fleet.pods
    assert len(fleet.pods) == 2


@pytest.mark.parametrize(("policy", "deleted"), [("Retry", True), ("Fail", True), ("Wait", False)])
def test_a_lost_worker_is_replaced_at_once_and_kept_only_where_it_is_waited_for(
    policy: str, deleted: bool
) -> None:
    fleet = Fleet(spec(replicas=2, onWorkerLost=policy))
    fleet.settle(seconds=5)
    lost = sorted(fleet.pods)[0]
    fleet.busy[lost] = 1
    fleet.unready.add(lost)
    fleet.pods[lost] = replace(fleet.pods[lost], lost=True)
    plan = fleet.tick()
    assert len(plan.create) == 1
    assert [pod.name for pod in plan.delete] == ([lost] if deleted else [])
    fleet.settle(seconds=5)
    assert len(fleet.serving()) == 2
    if not deleted:  # its node came back
        fleet.unready.clear()
        fleet.pods[lost] = replace(fleet.pods[lost], lost=False)
        fleet.settle(seconds=10)
        assert lost in fleet.pods, "it runs something: an idle one goes"
        assert len(fleet.pods) == 2


@pytest.mark.parametrize(
    ("queued", "pools", "parts"),
    [
        pytest.param(7, {"a": (0, 100)}, {"a": 7}, id="one pool gets all"),
        pytest.param(9, {"a": (0, 80), "b": (0, 40)}, {"a": 6, "b": 3}, id="by their capacities"),
        pytest.param(1, {"a": (0, 40), "b": (0, 40)}, {"a": 1, "b": 0}, id="ties by name"),
        pytest.param(8, {"a": (6, 40), "b": (0, 40)}, {"a": 1, "b": 7}, id="what runs counts"),
        pytest.param(3, {"a": (9, 40), "b": (0, 40)}, {"a": 0, "b": 3}, id="up to the same level"),
        pytest.param(90, {"a": (0, 40), "b": (0, 20)}, {"a": 55, "b": 35}, id="the rest, evenly"),
        pytest.param(9, {"a": (8, 8), "b": (0, 40)}, {"a": 0, "b": 9}, id="a full pool: nothing"),
        pytest.param(9, {"a": (5, None), "b": (0, 40)}, {"a": 0, "b": 9}, id="a fixed one too"),
        pytest.param(9, {"a": (5, None), "b": (0, 4)}, {"a": 5, "b": 4}, id="but what is over"),
        pytest.param(9, {"a": (5, None), "b": (0, None)}, {"a": 5, "b": 4}, id="fixed pools share"),
        pytest.param(0, {"a": (0, 40), "b": (0, None)}, {"a": 0, "b": 0}, id="nothing"),
    ],
)
def test_what_waits_is_divided_among_the_pools_of_an_agent(
    queued: int, pools: dict[str, tuple[int, int | None]], parts: dict[str, int]
) -> None:
    members = [Member(name, *numbers) for name, numbers in pools.items()]
    assert divide(queued, members) == parts
    assert divide(queued, members[::-1]) == parts


def test_a_pool_whose_workers_can_t_start_gets_what_no_other_can_take() -> None:
    pools = [Member("a", 0, 40, failing=True), Member("b", 0, 10)]
    assert divide(8, pools) == {"a": 0, "b": 8}
    assert divide(25, pools) == {"a": 15, "b": 10}
    assert divide(8, [Member("a", 0, 40, failing=True)]) == {"a": 8}


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30), st.booleans()), min_size=1),
    st.integers(0, 200),
    st.randoms(use_true_random=False),
)
def test_work_that_begins_where_it_was_counted_changes_no_pool_s_size(
    pools: list[tuple[int, int, bool]], queued: int, random: Random
) -> None:
    members = [
        Member(f"p{number}", min(running, capacity), capacity, failing)
        for number, (running, capacity, failing) in enumerate(pools)
    ]
    parts = divide(queued, members)
    assert sum(parts.values()) == queued
    if queued > sum(member.room for member in members):
        return
    assert all(0 <= parts[member.name] <= member.room for member in members)
    begun = {name: random.randint(0, part) for name, part in parts.items()}
    later = [replace(member, running=member.running + begun[member.name]) for member in members]
    again = divide(queued - sum(begun.values()), later)
    assert again == {name: part - begun[name] for name, part in parts.items()}
