"""How pools grow, shrink, roll out and give up: the planner run against a fleet in memory."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.api.pool import PoolSpec
from corral.plan.pool import PodView, PoolMemory, PoolPlan, plan_pool, recommended


def spec(**fields: object) -> PoolSpec:
    return PoolSpec.model_validate({"agentRef": {"name": "a"}, **fields})


def autoscaled(low: int = 0, high: int = 10, target: int | None = None) -> PoolSpec:
    scaling = {"minReplicas": low, "maxReplicas": high, "scaleDownStabilization": "60s"}
    if target is not None:
        scaling["targetStepsPerReplica"] = target
    return spec(autoscaling=scaling, concurrency=4)


@dataclass
class Fleet:
    """Pods that become ready two seconds after they were made, and go when they are deleted."""

    pool: PoolSpec
    revision: str = "r1"
    now: float = 1000.0
    pods: dict[str, PodView] = field(default_factory=dict)
    memory: PoolMemory = field(default_factory=PoolMemory)
    busy: dict[str, int] = field(default_factory=dict)
    made: int = 0
    most: int = 0

    def tick(self, queued: int = 0, seconds: float = 1.0) -> PoolPlan:
        for name, pod in self.pods.items():
            ready = self.now - pod.created >= 2
            self.pods[name] = replace(pod, ready=ready, busy=self.busy.get(name, 0))
        plan = plan_pool(
            "p", "uid", self.pool, self.revision, list(self.pods.values()),
            queued, sum(self.busy.values()), self.memory, self.now,
        )  # fmt: skip
        for pod in plan.delete:
            del self.pods[pod.name]
            self.busy.pop(pod.name, None)
        for name, slot in plan.create:
            assert name not in self.pods
            self.made += 1
            self.pods[name] = PodView(
                name, f"uid-{self.made}", self.revision, slot, self.now, False, False, False, 0
            )
        self.most = max(self.most, len(self.pods))
        self.now += seconds
        return plan

    def settle(self, queued: int = 0, seconds: int = 30) -> PoolPlan:
        for _ in range(seconds):
            plan = self.tick(queued)
        return plan

    def revisions(self) -> set[str]:
        return {pod.revision for pod in self.pods.values()}


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


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.integers(0, 5),
    st.integers(1, 3),
    st.lists(
        st.one_of(
            st.tuples(st.just("replicas"), st.integers(0, 6)),
            st.tuples(st.just("revision"), st.integers(1, 3)),
            st.tuples(st.just("die"), st.integers(0, 5)),
            st.tuples(st.just("busy"), st.integers(0, 5)),
            st.tuples(st.just("wait"), st.integers(1, 8)),
        ),
        max_size=12,
    ),
)
def test_whatever_happens_a_pool_comes_to_what_its_spec_says(
    replicas: int, surge: int, events: list[tuple[str, int]]
) -> None:
    def pool(count: int) -> PoolSpec:
        return spec(
            replicas=count, drainTimeout="20s", strategy={"maxSurge": surge, "maxUnavailable": 0}
        )

    fleet = Fleet(pool(replicas))
    for event, value in events:
        names = sorted(fleet.pods)
        if event == "replicas":
            replicas = value
            fleet.pool = pool(value)
        elif event == "revision":
            fleet.revision = f"r{value}"
        elif event == "die" and names:
            name = names[value % len(names)]
            fleet.pods[name] = replace(fleet.pods[name], ended=True)
            fleet.busy.pop(name, None)
        elif event == "busy" and names:
            fleet.busy[names[value % len(names)]] = 1
        elif event == "wait":
            fleet.settle(seconds=value)
        fleet.tick()
    fleet.busy.clear()
    plan = fleet.settle(seconds=60)
    assert len(fleet.pods) == replicas
    assert fleet.revisions() <= {fleet.revision}
    assert len({pod.slot for pod in fleet.pods.values()}) == replicas
    assert (plan.create, plan.delete, plan.drain, plan.wake) == ([], [], [], None)
