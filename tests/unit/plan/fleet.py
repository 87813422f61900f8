"""A pool's pods in memory, and what no decision of its planner may do to them."""

from dataclasses import dataclass, field, replace

from corral.api.pool import PoolSpec
from corral.api.types import seconds
from corral.plan.pool import PodView, PoolMemory, PoolPlan, demand, plan_pool


def spec(**fields: object) -> PoolSpec:
    return PoolSpec.model_validate({"agentRef": {"name": "a"}, **fields})


def autoscaled(low: int = 0, high: int = 10, target: int | None = None) -> PoolSpec:
    scaling = {"minReplicas": low, "maxReplicas": high, "scaleDownStabilization": "60s"}
    if target is not None:
        scaling["targetStepsPerReplica"] = target
    return spec(autoscaling=scaling, concurrency=4)


@dataclass
class Fleet:
    """Pods that become ready ``starts_in`` seconds after they were made (None: never).

    They go when they are deleted, or ``ends_in`` seconds later.
    """

    pool: PoolSpec
    revision: str = "r1"
    now: float = 1000.0
    starts_in: float | None = 2.0
    ends_in: float = 0.0
    pods: dict[str, PodView] = field(default_factory=dict)
    memory: PoolMemory = field(default_factory=PoolMemory)
    busy: dict[str, int] = field(default_factory=dict)
    made: int = 0
    most: int = 0
    clings: set[str] = field(default_factory=set)
    """Workers that, told to drain, say that they hold something still."""
    unready: set[str] = field(default_factory=set)
    _ends_at: dict[str, float] = field(default_factory=dict)
    _leaving_since: dict[str, float] = field(default_factory=dict)

    def tick(self, queued: int = 0, seconds: float = 1.0) -> PoolPlan:
        """A pass, and the time until the next one."""
        for name, end in list(self._ends_at.items()):
            if end <= self.now:
                self._remove(name)
        for name, pod in self.pods.items():
            started = self.starts_in is not None and self.now - pod.created >= self.starts_in
            ready = (pod.ready or started) and not pod.ended and name not in self.unready
            self.pods[name] = replace(pod, ready=ready, busy=self.busy.get(name, 0))
        pods = list(self.pods.values())
        running = demand(pods, self.memory)
        plan = plan_pool(
            "p", "uid", self.pool, self.revision, pods, queued, running, self.memory, self.now
        )
        self._judge(plan)
        room = plan.room
        for pod in plan.delete:
            if pod.ready and pod.name in self.clings:
                self.pods[pod.name] = replace(pod, draining=True)
                continue
            room += pod.active
            self.pods[pod.name] = replace(pod, deleting=True)
            self._ends_at[pod.name] = self.now + self.ends_in
            if not self.ends_in:
                self._remove(pod.name)
        for name, slot in plan.create[:room]:
            self.made += 1
            self.pods[name] = PodView(
                name, f"uid-{self.made}", self.revision, slot, self.now, False, False, False, 0
            )
        self.most = max(self.most, len(self.pods))
        self.now += seconds
        return plan

    def _judge(self, plan: PoolPlan) -> None:
        """What holds for every decision, whatever happened before it."""
        active = [pod for pod in self.pods.values() if pod.active]
        deleted = {pod.name for pod in plan.delete}
        assert not {name for name, _ in plan.create} & self.pods.keys()
        after = len([pod for pod in active if pod.name not in deleted]) + len(plan.create)
        strategy = self.pool.strategy
        assert not plan.create or after <= plan.desired + strategy.max_surge
        able = [pod for pod in active if pod.ready and not pod.draining]
        going = deleted | {pod.name for pod in plan.drain}
        serving = [pod for pod in able if pod.name not in going]
        assert len(serving) >= min(len(able), plan.desired - strategy.max_unavailable)
        drained = seconds(self.pool.drain_timeout)
        for pod in plan.delete:
            since = self._leaving_since.get(pod.name, self.now)
            assert not (pod.active and pod.busy) or self.now - since >= drained, "it runs something"
        self._leaving_since = {
            pod.name: self._leaving_since.get(pod.name, self.now) for pod in plan.drain
        }

    def _remove(self, name: str) -> None:
        del self.pods[name]
        self._ends_at.pop(name, None)
        self.busy.pop(name, None)

    def settle(self, queued: int = 0, seconds: int = 30) -> PoolPlan:
        for _ in range(seconds):
            plan = self.tick(queued)
        return plan

    def serving(self) -> list[PodView]:
        """The workers that take steps."""
        return [
            pod
            for pod in self.pods.values()
            if pod.active
            and pod.ready
            and not pod.draining
            and pod.uid not in self.memory.draining_since
        ]

    def revisions(self) -> set[str]:
        return {pod.revision for pod in self.pods.values()}
