"""How many workers a pool has, which are made and which go.

With ``autoscaling`` the number follows the work at once when it grows and after a stabilisation
window when it shrinks (Kubernetes' HPA does the same):

    recommended = clamp(ceil((queued + running) / targetStepsPerReplica), min, max)
    desired     = the highest recommendation within scaleDownStabilization

Without it ``spec.replicas`` rules. Pods of another revision take no new work; they go once they
are idle, or when ``drainTimeout`` is over. A pod that goes is told to drain first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from corral.api.pool import PoolSpec
from corral.api.types import seconds
from corral.plan.names import pod_name

FAILURE_BACKOFF_LIMIT = 60.0


@dataclass(frozen=True)
class PodView:
    """A worker pod as the pool sees it."""

    name: str
    uid: str
    revision: str
    slot: int
    created: float
    ready: bool
    ended: bool
    """Phase Failed or Succeeded."""
    deleting: bool
    busy: int
    """Attempts that run there, or whose results are not acknowledged."""
    problem: str = ""
    """Why it does not start, in a sentence."""
    url: str = ""


@dataclass
class PoolMemory:
    """What a pool's passes remember; lost on a restart without harm."""

    recommendations: list[tuple[float, int]] = field(default_factory=list)
    """(until when it held, how many workers), oldest first."""
    draining_since: dict[str, float] = field(default_factory=dict)
    """By pod UID."""
    failures: int = 0
    """Pods that ended without ever being ready, in a row."""
    not_before: float = 0
    seen_failed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class PoolPlan:
    """What should be done, and what to say of it."""

    desired: int
    create: list[tuple[str, int]]
    """(pod name, slot)."""
    drain: list[PodView]
    delete: list[PodView]
    wake: float | None
    problem: str = ""


def recommended(spec: PoolSpec, steps: int) -> int:
    """The number of workers for ``steps`` queued and running steps, without hysteresis."""
    if spec.autoscaling is None:
        return spec.replicas
    target = spec.autoscaling.target_steps_per_replica or spec.concurrency
    needed = math.ceil(steps / target)
    return max(spec.autoscaling.min_replicas, min(needed, spec.autoscaling.max_replicas))


def desired_replicas(spec: PoolSpec, steps: int, memory: PoolMemory, now: float) -> int:
    """The number of workers now; remembers the recommendation for the stabilisation window."""
    if spec.autoscaling is None:
        return spec.replicas
    current = recommended(spec, steps)
    records = memory.recommendations
    if records:
        records[-1] = (now, records[-1][1])
    if not records or records[-1][1] != current:
        records.append((now, current))
    oldest = now - seconds(spec.autoscaling.scale_down_stabilization)
    records[:] = [(until, value) for until, value in records if until > oldest]
    bounds = spec.autoscaling
    highest = max(value for _, value in records)
    return max(bounds.min_replicas, min(highest, bounds.max_replicas))


def plan_pool(
    pool: str,
    pool_uid: str,
    spec: PoolSpec,
    revision: str,
    pods: Sequence[PodView],
    queued: int,
    running: int,
    memory: PoolMemory,
    now: float,
) -> PoolPlan:
    """What a pool should do next. ``revision`` is what its pods should be of."""
    _remember_failures(pods, memory, now)
    steps = queued + running
    desired = desired_replicas(spec, steps, memory, now)
    wake: list[float] = []
    if spec.autoscaling is not None and desired > recommended(spec, steps):
        held = max(until for until, value in memory.recommendations if value == desired)
        wake.append(held + seconds(spec.autoscaling.scale_down_stabilization) + 0.05)
    delete = [pod for pod in pods if pod.ended and not pod.deleting]
    active = [pod for pod in pods if not pod.ended and not pod.deleting]
    current = [pod for pod in active if pod.revision == revision]
    leaving = [pod for pod in active if pod.revision != revision]
    leaving += sorted(current, key=_goes_first)[: max(0, len(current) - desired)]
    gone = {pod.uid for pod in pods}
    stays = {pod.uid for pod in current} - {pod.uid for pod in leaving}
    for uid in list(memory.draining_since):
        if uid not in gone or uid in stays:
            del memory.draining_since[uid]
    drain = []
    for pod in leaving:
        since = memory.draining_since.setdefault(pod.uid, now)
        due = since + seconds(spec.drain_timeout)
        if (pod.busy == 0 and (not pod.ready or since < now)) or due <= now:
            delete.append(pod)
        else:
            drain.append(pod)
            wake.append(min(due, now + 1) if pod.busy == 0 else due)
    surge = max(spec.strategy.max_surge, 0 if spec.strategy.max_unavailable else 1)
    staying = [pod for pod in current if pod not in leaving]
    room = desired + surge - len(active) + sum(pod in delete for pod in active)
    missing = max(0, min(desired - len(staying), room))
    create: list[tuple[str, int]] = []
    if missing and memory.not_before > now:
        wake.append(memory.not_before)
    elif missing:
        create = _places(pool, pool_uid, revision, pods, staying, missing)
    problem = next((pod.problem for pod in pods if pod.problem and pod.revision == revision), "")
    return PoolPlan(desired, create, drain, delete, min(wake, default=None), problem)


def _goes_first(pod: PodView) -> tuple[bool, int, float, str]:
    """Scale-down takes what is not ready, then the least busy, then the youngest; ties by name."""
    return (pod.ready, pod.busy, -pod.created, pod.name)


def _remember_failures(pods: Sequence[PodView], memory: PoolMemory, now: float) -> None:
    """Workers that die young are replaced ever more slowly: 1 s, 2 s, 4 s … 60 s."""
    if any(pod.ready for pod in pods):
        memory.failures = 0
    for pod in pods:
        if pod.ended and pod.problem and pod.uid not in memory.seen_failed:
            memory.seen_failed.add(pod.uid)
            memory.failures += 1
            if memory.failures > 1:
                wait = min(2.0 ** (memory.failures - 2), FAILURE_BACKOFF_LIMIT)
                memory.not_before = now + wait
    memory.seen_failed &= {pod.uid for pod in pods}


def _places(
    pool: str,
    pool_uid: str,
    revision: str,
    pods: Sequence[PodView],
    staying: Sequence[PodView],
    missing: int,
) -> list[tuple[str, int]]:
    """The lowest free slots, with names that no pod has, not even one that is going."""
    names = {pod.name for pod in pods}
    taken = {pod.slot for pod in staying}
    places: list[tuple[str, int]] = []
    slot = 0
    while len(places) < missing:
        if slot not in taken:
            incarnation = 0
            while (name := pod_name(pool, pool_uid, revision, slot, incarnation)) in names:
                incarnation += 1
            places.append((name, slot))
        slot += 1
    return places
