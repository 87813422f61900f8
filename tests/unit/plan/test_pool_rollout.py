"""How workers are replaced: like a Deployment's pods, but that what they run ends first."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from corral.api.pool import PoolSpec
from tests.unit.plan.fleet import Fleet, spec


def pool(replicas: int, surge: int = 1, unavailable: int = 0) -> PoolSpec:
    strategy = {"maxSurge": surge, "maxUnavailable": unavailable}
    return spec(replicas=replicas, drainTimeout="20s", strategy=strategy)


def rolled(fleet: Fleet, seconds: int = 20) -> list[dict[str, int]]:
    """How many workers of each revision took steps, second by second."""
    fleet.settle(seconds=5)
    fleet.revision = "r2"
    seen = []
    for _ in range(seconds):
        fleet.tick()
        counts: dict[str, int] = {}
        for pod in fleet.serving():
            counts[pod.revision] = counts.get(pod.revision, 0) + 1
        seen.append(counts)
    return seen


@pytest.mark.parametrize(
    ("surge", "unavailable", "fewest", "most"),
    [(1, 0, 3, 4), (3, 0, 3, 6), (0, 1, 2, 3), (0, 3, 0, 3), (2, 1, 2, 5)],
)
def test_a_rollout_keeps_to_its_strategy_and_ends(
    surge: int, unavailable: int, fewest: int, most: int
) -> None:
    fleet = Fleet(pool(3, surge, unavailable))
    seen = rolled(fleet)
    assert min(sum(counts.values()) for counts in seen) == fewest
    assert fleet.most == most
    assert seen[-1] == {"r2": 3}
    assert len(fleet.pods) == 3


def test_old_workers_serve_as_long_as_new_ones_can_t_start() -> None:
    fleet = Fleet(pool(3))
    fleet.settle(seconds=5)
    fleet.starts_in = None
    assert rolled(fleet, 60)[-1] == {"r1": 3}
    assert len(fleet.pods) == 4
    # The next revision is better: what never became ready goes first.
    fleet.revision, fleet.starts_in = "r3", 2.0
    fleet.settle(seconds=20)
    assert fleet.revisions() == {"r3"}
    assert len(fleet.pods) == 3


def test_an_old_worker_that_runs_something_takes_nothing_new_once_the_new_one_is_ready() -> None:
    fleet = Fleet(pool(1))
    fleet.settle(seconds=5)
    (old,) = fleet.pods
    fleet.busy[old] = 1
    fleet.revision = "r2"
    fleet.settle(seconds=10)
    assert old in fleet.pods
    assert [pod.revision for pod in fleet.serving()] == ["r2"]
    fleet.busy.clear()
    fleet.settle(seconds=3)
    assert fleet.revisions() == {"r2"}


def test_a_new_worker_that_ends_brings_an_old_one_back_that_has_not_been_told_to_go() -> None:
    fleet = Fleet(pool(1))
    fleet.settle(seconds=5)
    (old,) = fleet.pods
    fleet.busy[old] = 1
    fleet.revision = "r2"
    fleet.settle(seconds=10)
    (new,) = fleet.pods.keys() - {old}
    fleet.pods[new] = replace(fleet.pods[new], ended=True)
    fleet.starts_in = None
    fleet.tick()
    assert [pod.name for pod in fleet.serving()] == [old]


def test_a_pool_that_shrinks_while_it_rolls_out_keeps_what_is_ready() -> None:
    fleet = Fleet(pool(6))
    fleet.settle(seconds=5)
    fleet.starts_in = None
    fleet.revision = "r2"
    fleet.settle(seconds=5)
    fleet.pool = pool(2)
    fleet.settle(seconds=5)
    assert [pod.revision for pod in fleet.serving()] == ["r1", "r1"]
    assert len(fleet.pods) == 3, "two that work, and one that may"


def test_a_pool_that_shrinks_makes_do_without_new_workers_that_do_not_start() -> None:
    fleet = Fleet(pool(3))
    fleet.settle(seconds=5)
    fleet.starts_in = None
    fleet.revision = "r2"
    fleet.pool = pool(6)
    fleet.settle(seconds=5)
    assert len(fleet.pods) == 7
    fleet.pool = pool(3)
    fleet.settle(seconds=5)
    assert [pod.revision for pod in fleet.serving()] == ["r1"] * 3
    assert len(fleet.pods) == 4


def test_a_worker_that_leaves_is_not_asked_back_in_place_of_another() -> None:
    fleet = Fleet(pool(2))
    fleet.settle(seconds=5)
    for name in fleet.pods:
        fleet.busy[name] = 1
    fleet.revision = "r2"
    fleet.settle(seconds=10)
    (serving,) = [pod.name for pod in fleet.serving() if pod.revision == "r1"]
    fleet.busy.pop(serving)
    fleet.settle(seconds=5)
    assert serving in {pod.name for pod in fleet.serving()}


class Rollouts(RuleBasedStateMachine):
    """Everything that may happen to a pool, in any order; ``Fleet`` judges every decision."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(pool(0))
        self.strategy = (1, 0)

    @initialize(
        replicas=st.integers(0, 5),
        strategy=st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any),
        ends_in=st.sampled_from([0.0, 3.0]),
    )
    def begin(self, replicas: int, strategy: tuple[int, int], ends_in: float) -> None:
        self.strategy = strategy
        self.fleet.pool = pool(replicas, *strategy)
        self.fleet.ends_in = ends_in

    @rule(ticks=st.integers(1, 5), seconds=st.sampled_from([0.2, 1.0, 9.0]))
    def time_passes(self, ticks: int, seconds: float) -> None:
        for _ in range(ticks):
            self.fleet.tick(seconds=seconds)

    @rule(replicas=st.integers(0, 6))
    def it_is_scaled(self, replicas: int) -> None:
        self.fleet.pool = pool(replicas, *self.strategy)

    @rule(revision=st.integers(1, 4), starts_in=st.sampled_from([None, 0.5, 2.0]))
    def the_agent_changes(self, revision: int, starts_in: float | None) -> None:
        self.fleet.revision = f"r{revision}"
        self.fleet.starts_in = starts_in

    def _one(self, number: int) -> str | None:
        names = sorted(name for name, pod in self.fleet.pods.items() if not pod.deleting)
        return names[number % len(names)] if names else None

    @rule(number=st.integers(0, 9))
    def a_pod_ends(self, number: int) -> None:
        if name := self._one(number):
            self.fleet.pods[name] = replace(self.fleet.pods[name], ended=True)
            self.fleet.busy.pop(name, None)

    @rule(number=st.integers(0, 9), lost=st.booleans())
    def a_node_goes_away_or_comes_back(self, number: int, lost: bool) -> None:
        if name := self._one(number):
            self.fleet.pods[name] = replace(self.fleet.pods[name], lost=lost)

    @rule(number=st.integers(0, 9))
    def a_worker_is_not_ready_for_a_while(self, number: int) -> None:
        if name := self._one(number):
            self.fleet.unready ^= {name}

    @rule(steps=st.integers(1, 3))
    def work_comes(self, steps: int) -> None:
        for pod in self.fleet.serving()[:steps]:
            self.fleet.busy[pod.name] = self.fleet.busy.get(pod.name, 0) + 1

    @precondition(lambda self: self.fleet.busy)
    @rule(number=st.integers(0, 9))
    def work_is_done(self, number: int) -> None:
        names = sorted(self.fleet.busy)
        self.fleet.busy.pop(names[number % len(names)])

    @rule(number=st.integers(0, 9))
    def a_worker_holds_what_the_pool_does_not_know(self, number: int) -> None:
        if name := self._one(number):
            self.fleet.clings ^= {name}

    def teardown(self) -> None:
        """Once nothing more happens, the pool comes to what its spec says."""
        fleet = self.fleet
        fleet.starts_in, fleet.clings, fleet.unready = 2.0, set(), set()
        fleet.busy.clear()
        fleet.pods = {name: replace(pod, lost=False) for name, pod in fleet.pods.items()}
        plan = fleet.settle(seconds=120)
        assert len(fleet.serving()) == len(fleet.pods) == fleet.pool.replicas
        assert fleet.revisions() <= {fleet.revision}
        assert len({pod.slot for pod in fleet.pods.values()}) == fleet.pool.replicas
        assert (plan.create, plan.delete, plan.drain, plan.wake) == ([], [], [], None)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(deadline=None, max_examples=100, stateful_step_count=30)
