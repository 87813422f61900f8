"""How many workers a pool has, which are made and which go.

With ``autoscaling`` the number follows the work at once when it grows and after a stabilisation
window when it shrinks (Kubernetes' HPA does the same):

    recommended = clamp(ceil((queued + running) / targetStepsPerReplica), min, max)
    desired     = the highest recommendation within scaleDownStabilization

Without it ``spec.replicas`` rules. What waits for an Agent is divided among its pools.

Workers of an old revision take work until enough new ones are ready: of all workers that take
work, ``desired - maxUnavailable`` stay ready, and none is made beyond ``desired + maxSurge`` pods.
What goes takes nothing new, and is deleted once it is idle, or when ``drainTimeout`` is over.
A worker that is lost counts for nothing: another is made in its place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from corral.api.pool import PoolSpec
from corral.api.types import seconds
from corral.plan.names import pod_name

FAILURE_BACKOFF_LIMIT = 60.0
HAND_OVER = 0.5
"""Seconds for which an idle worker stays that takes nothing new: what was claimed may arrive."""


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
    draining: bool = False
    """The worker was told to drain: it takes nothing new, ever."""
    lost: bool = False
    """Neither its node nor the worker itself can be reached; it may come back."""

    @property
    def active(self) -> bool:
        """Whether it counts as one of the pool's workers."""
        return not (self.ended or self.deleting or self.lost)


@dataclass(frozen=True)
class Member:
    """One of the pools of an Agent, as far as work is divided among them."""

    name: str
    running: int
    """Steps on its workers, but those that leave."""
    capacity: int | None
    """Steps that it may grow for; None where it does not scale itself."""
    failing: bool = False
    """Whether its workers can't start."""

    @property
    def room(self) -> int:
        """Steps that it may still grow for."""
        return max(0, (self.capacity or 0) - self.running)


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
    room: int
    """How many may be made before any of those that are to be deleted is."""
    wake: float | None
    problem: str = ""


def recommended(spec: PoolSpec, steps: int) -> int:
    """The number of workers for ``steps`` queued and running steps, without hysteresis."""
    if spec.autoscaling is None:
        return spec.replicas
    needed = math.ceil(steps / _target(spec))
    return max(spec.autoscaling.min_replicas, min(needed, spec.autoscaling.max_replicas))


def _target(spec: PoolSpec) -> int:
    own = spec.autoscaling.target_steps_per_replica if spec.autoscaling else None
    return own or spec.concurrency


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
    delete = [
        pod
        for pod in pods
        if not pod.deleting and (pod.ended or (pod.lost and spec.on_worker_lost != "Wait"))
    ]
    active = [pod for pod in pods if pod.active]
    staying, leaving = _sorted_out(spec, desired, revision, active, memory)
    going = {pod.uid for pod in leaving}
    memory.draining_since = {
        uid: since for uid, since in memory.draining_since.items() if uid in going
    }
    drain = []
    for pod in leaving:
        since = memory.draining_since.setdefault(pod.uid, now)
        due = since + seconds(spec.drain_timeout)
        if (pod.busy == 0 and (not pod.ready or since < now)) or due <= now:
            delete.append(pod)
        else:
            drain.append(pod)
            wake.append(min(due, now + HAND_OVER) if pod.busy == 0 else due)
    most = desired + spec.strategy.max_surge
    room = most - sum(pod not in delete for pod in active)
    missing = max(0, min(desired - len(staying), room))
    create: list[tuple[str, int]] = []
    if missing and memory.not_before > now:
        wake.append(memory.not_before)
    elif missing:
        create = _places(pool, pool_uid, revision, pods, staying, missing)
    problem = next((pod.problem for pod in pods if pod.problem and pod.revision == revision), "")
    left = max(0, most - len(active))
    return PoolPlan(desired, create, drain, delete, left, min(wake, default=None), problem)


def _sorted_out(
    spec: PoolSpec, desired: int, revision: str, active: Sequence[PodView], memory: PoolMemory
) -> tuple[list[PodView], list[PodView]]:
    """The workers of the newest revision that stay, and those of any that leave.

    In neither are those of old revisions that go on taking work for now: as many as the ready new
    ones are short of ``desired - maxUnavailable``.
    """
    current = sorted((p for p in active if p.revision == revision and not p.draining), key=_stays)
    old = sorted((p for p in active if p.revision != revision and not p.draining), key=_stays)
    ready = min(desired, sum(pod.ready for pod in current))
    short = max(0, desired - spec.strategy.max_unavailable - ready)
    # One that is leaving already is the last to be asked back.
    serving = sorted((p for p in old if p.ready), key=lambda p: p.uid in memory.draining_since)
    serving = serving[:short]
    room = max(ready, desired + spec.strategy.max_surge - len(serving))
    staying = current[: min(desired, room)]
    kept = {pod.uid for pod in (*staying, *serving)}
    return staying, [pod for pod in active if pod.uid not in kept]


def demand(pods: Sequence[PodView], memory: PoolMemory) -> int:
    """The steps that run on workers that stay: what leaves needs no place any more."""
    return sum(
        pod.busy
        for pod in pods
        if pod.active and not pod.draining and pod.uid not in memory.draining_since
    )


def capacity(spec: PoolSpec) -> int | None:
    """The steps that a pool may grow for; None where it does not scale itself."""
    return spec.autoscaling.max_replicas * _target(spec) if spec.autoscaling else None


def divide(queued: int, pools: Sequence[Member]) -> dict[str, int]:
    """What waits for an Agent, divided among its pools: by name, adds up to ``queued``.

    Pools that scale themselves get it so that what they run and what they get is in proportion to
    their capacities, and no more than these: that does not change when what waits begins to run.
    One whose workers can't start gets nothing while another can take it. What is left over is
    shared evenly: by the pools that somebody else scales, else by all.
    """
    shares = dict.fromkeys((pool.name for pool in pools), 0)
    left = queued
    for failing in (False, True):
        for name, part in _level(left, [p for p in pools if p.failing is failing]).items():
            shares[name] += part
            left -= part
    rest = [p.name for p in pools if p.capacity is None] or list(shares)
    for name, part in _proportionally(left, dict.fromkeys(rest, 1)).items():
        shares[name] += part
    return shares


def _level(amount: int, pools: Sequence[Member]) -> dict[str, int]:
    """As much of an amount as the pools have room for, each up to the same level."""
    able = {pool.name: pool for pool in pools if pool.room}
    amount = min(amount, sum(pool.room for pool in able.values()))
    while able:
        total = amount + sum(pool.running for pool in able.values())
        levels = _proportionally(total, {name: p.capacity or 0 for name, p in able.items()})
        above = [name for name, pool in able.items() if pool.running > levels[name]]
        if not above:
            return {name: level - able[name].running for name, level in levels.items()}
        for name in above:
            del able[name]
    return {}


def _proportionally(amount: int, weights: Mapping[str, int]) -> dict[str, int]:
    """An amount in parts, by largest remainders; ties by name."""
    total = sum(weights.values())
    if not total:
        return {}
    parts = {name: amount * weight // total for name, weight in weights.items()}
    remainders = sorted(weights, key=lambda name: (-(amount * weights[name] % total), name))
    for name in remainders[: amount - sum(parts.values())]:
        parts[name] += 1
    return parts


def _stays(pod: PodView) -> tuple[bool, int, float, str]:
    """Those that stay first: the ready, then the busiest, then the oldest; ties by name."""
    return (not pod.ready, -pod.busy, pod.created, pod.name)


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
