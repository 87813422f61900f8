"""A pass over an AgentPool: see the pods, plan, make and delete them, write the status."""

import logging
from time import monotonic

from corral.api.errors import ConditionType, Reason
from corral.api.pool import PoolSpec, PoolStatus
from corral.dispatch.client import RefusedError, WorkerUnreachableError
from corral.kube.client import PODS, POOLS, ApiError, Json
from corral.kube.events import post_event
from corral.plan.conditions import condition, merge
from corral.plan.names import LABEL_REVISION, LABEL_SLOT, selector, worker_labels
from corral.plan.observed import AgentView
from corral.plan.pods import (
    config_of,
    knows_caller,
    pod_manifest,
    pod_revision,
    pod_template,
    worker_config,
)
from corral.plan.pool import (
    Member,
    PodView,
    PoolMemory,
    PoolPlan,
    capacity,
    demand,
    divide,
    plan_pool,
)
from corral.plan.times import parse
from corral.reconcile.contacts import UNREACHABLE_AFTER, node_unreachable
from corral.reconcile.following import worker_of
from corral.reconcile.pod_problems import PodProblems, end_of
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.store import ObjectKey, is_worker, key_of, pool_of
from corral.reconcile.world import Capacity, World, read_spec, with_status
from corral.telemetry import metrics

log = logging.getLogger(__name__)

STOP_GRACE = 5
"""Seconds that a worker has to end when its pool, its Agent or its Model was deleted."""
START_LIMIT = 30.0
"""Seconds for which a worker may have a problem before its pool leaves work to others."""
LOOK_AGAIN = 1.0
"""Seconds after which a pod that is in the way is looked for."""
STATUS_PERIOD = 5.0
"""Seconds between two writes of a pool's status for its counters alone."""


class Pools:
    """The passes over all AgentPools."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._memory: dict[ObjectKey, PoolMemory] = {}
        self._written: dict[ObjectKey, float] = {}
        self._specs: dict[ObjectKey, PoolSpec] = {}
        """Of the pools that work, as of their last passes."""
        self._problems = PodProblems(world)

    async def reconcile(self, key: ObjectKey) -> None:
        """One pass.

        Raises:
            RetryLaterError: the API server refused for now.
        """
        obj = self._world.pools.get(key)
        try:
            if obj is None or obj["metadata"].get("deletionTimestamp"):
                await self._stop(key)
                self._forget(key)
            else:
                await self._pass(key, obj)
        except ApiError as error:
            if not error.not_found:
                raise RetryLaterError(str(error), error.retry_after) from error

    async def _pass(self, key: ObjectKey, obj: Json) -> None:
        spec = read_spec(PoolSpec, obj)
        if not isinstance(spec, PoolSpec):
            self._specs.pop(key, None)
            message = "; ".join(str(problem) for problem in spec)
            await self._write_status(key, obj, PoolStatus(), Reason.INVALID_SPEC, message)
            return
        agent_key = (key[0], spec.agent_ref.name)
        view = self._world.agent_view(agent_key)
        if view is None or not view.ready:
            self._specs.pop(key, None)
            await self._without_agent(key, obj, spec, view)
            return
        template = await self._template(key, spec, agent_key)
        revision = pod_revision(template)
        uid = obj["metadata"]["uid"]
        await self._problems.look(key, self._pods_of(key, uid))
        pods = self._pods_of(key, uid)
        memory = self._remembered(key, pods)
        queued = self._part_of_queue(key, spec)
        plan = plan_pool(
            key[1],
            uid,
            spec,
            revision,
            pods,
            queued,
            demand(pods, memory),
            memory,
            self._world.kube.now(),
        )
        self._give_up_lost(key, spec, pods)
        await self._act(key, obj, agent_key, template, revision, plan)
        pods = self._pods_of(key, uid)
        offered = self._offer_ready(key, uid, spec, agent_key, revision, template, memory)
        self._tell_capacity(key, agent_key, Capacity(offered, plan.problem))
        await self._status(key, obj, spec, revision, pods, plan, queued)
        if any(self._world.attempts.unacked(pod.uid) for pod in pods):
            self._world.wake.pool(key, STATUS_PERIOD)  # nobody tells when a worker is idle then
        if plan.wake is not None:
            self._world.wake.pool(key, max(0.05, plan.wake - self._world.kube.now()))

    def _pods_of(self, key: ObjectKey, uid: str | None = None) -> list[PodView]:
        """The pool's pods; with ``uid`` none that an earlier pool of that name left behind."""
        return [self._pod_view(pod) for pod in self._world.pods.of_pool(key, uid)]

    def _part_of_queue(self, key: ObjectKey, spec: PoolSpec) -> int:
        """What of the steps that wait for the Agent is this pool's to make workers for."""
        agent = (key[0], spec.agent_ref.name)
        self._specs[key] = spec
        told, now = self._world.capacity.get(agent, {}), self._world.kube.now()
        members = []
        for name in self._world.pools_of(agent):
            other = (key[0], name)
            if (known := self._specs.get(other)) is not None:
                pods = self._pods_of(other)
                running = demand(pods, self._memory.get(other) or PoolMemory())
                failing = (
                    name in told
                    and bool(told[name].problem)
                    and all(now - pod.created >= START_LIMIT for pod in pods if pod.problem)
                )
                members.append(Member(name, running, capacity(known), failing))
        return divide(self._world.slots.queued(agent), members).get(key[1], 0)

    def _give_up_lost(self, key: ObjectKey, spec: PoolSpec, pods: list[PodView]) -> None:
        """Has what ran on lost workers be decided on, and looks again at those that are silent."""
        for pod in pods:
            raw = self._world.pods.by_uid(pod.uid)
            if raw is None or pod.ended or not node_unreachable(raw):
                continue
            if not pod.lost:
                silent = self._world.contacts.silent_for(pod.uid)
                self._world.wake.pool(key, max(0.05, UNREACHABLE_AFTER - silent))
            elif spec.on_worker_lost != "Wait":
                retried = spec.on_worker_lost == "Retry"
                self._world.attempts.worker_lost(worker_of(raw), retried=retried)

    def _remembered(self, key: ObjectKey, pods: list[PodView]) -> PoolMemory:
        """In a new term what is there counts as recommended, until the runs have been read."""
        if key not in self._memory:
            active = sum(not pod.ended and not pod.deleting for pod in pods)
            self._memory[key] = PoolMemory(recommendations=[(self._world.kube.now(), active)])
        return self._memory[key]

    async def _template(self, key: ObjectKey, spec: PoolSpec, agent_key: ObjectKey) -> Json:
        _, agent = self._world.agent_readiness(agent_key)
        if agent is None:
            raise RetryLaterError(f"Agent {agent_key[1]} went away")
        config = worker_config(
            key[0],
            agent_key[1],
            agent,
            self._world.agent_revision(agent_key),
            self._world.used_models(key[0], agent),
            spec,
            await self._world.tokens.identity(),
        )
        world = self._world
        return pod_template(key[1], spec, config, world.image, world.image_revision)

    def _pod_view(self, pod: Json) -> PodView:
        meta, status = pod["metadata"], pod.get("status") or {}
        uid = meta["uid"]
        ended = status.get("phase") in ("Failed", "Succeeded")
        ready = not ended and any(
            c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or []
        )
        slot = meta["labels"].get(LABEL_SLOT, "0")
        return PodView(
            name=meta["name"],
            uid=uid,
            revision=meta["labels"].get(LABEL_REVISION, ""),
            slot=int(slot) if slot.isdigit() else 0,
            created=parse(meta["creationTimestamp"]),
            ready=ready,
            ended=ended,
            deleting=bool(meta.get("deletionTimestamp")),
            busy=self._world.slots.held_on(uid) + self._world.attempts.unacked(uid),
            problem=end_of(pod) if ended else ("" if ready else self._problems.of(uid)),
            draining=self._world.contacts.draining(uid),
            lost=not ended
            and node_unreachable(pod)
            and self._world.contacts.silent_for(uid) >= UNREACHABLE_AFTER,
        )

    def _offer_ready(
        self,
        key: ObjectKey,
        uid: str,
        spec: PoolSpec,
        agent_key: ObjectKey,
        revision: str,
        template: Json,
        memory: PoolMemory,
    ) -> bool:
        """Puts what the pods can take into the slot table, and wakes who waits for it.

        A worker of an old revision takes attempts of its own revision of the Agent, and as many as
        it was made for.
        """
        newest = config_of(template)
        offered_any = False
        for pod in self._world.pods.of_pool(key, uid):
            view = self._pod_view(pod)
            if view.ended:
                self._world.slots.withdraw(view.uid)
                continue
            updated = view.revision == revision
            config = newest if updated else config_of(pod)
            offered = (
                view.ready
                and not view.deleting
                and not view.draining
                and view.uid not in memory.draining_since
                and (updated or knows_caller(config, newest))
            )
            offered_any = offered_any or offered
            self._world.slots.offer(
                worker_of(pod),
                agent_key,
                config.get("agentRevision", ""),
                config.get("concurrency", spec.concurrency),
                offered,
                updated,
                self._world.kube.now(),
            )
        if offered_any:
            for workflow in self._world.slots.waiting_for([agent_key]):
                self._world.wake.workflow(workflow)
        return offered_any

    def _tell_capacity(self, key: ObjectKey, agent: ObjectKey, capacity: Capacity | None) -> None:
        """Says what the pool does for its Agent now; None: the pool is gone."""
        pools = self._world.capacity.setdefault(agent, {})
        if pools.get(key[1]) != capacity:
            self._world.wake.agent(agent)
        if capacity is not None:
            pools[key[1]] = capacity
            return
        pools.pop(key[1], None)
        if not pools:
            del self._world.capacity[agent]

    async def _act(
        self,
        key: ObjectKey,
        obj: Json,
        agent_key: ObjectKey,
        template: Json,
        revision: str,
        plan: PoolPlan,
    ) -> None:
        world = self._world
        for pod in (*plan.drain, *plan.delete):
            world.slots.close(pod.uid)
        asked_at = world.slots.risen_at(agent_key)
        room = plan.room
        for pod in plan.delete:
            raw = world.pods.by_uid(pod.uid)
            if raw is not None and pod.ready and not await self._drained(key, raw, pod):
                continue
            await world.kube.delete(PODS, key[0], pod.name, pod.uid)
            if pod.ended:
                metrics.POOL_WORKERS_ENDED.labels(*key).inc()
            room += pod.active
        for name, slot in plan.create[:room]:
            body = pod_manifest(template, revision, name, slot, key[1], obj["metadata"]["uid"])
            try:
                found, made = await world.kube.make(PODS, key[0], body)
                if not is_worker(found):
                    await self._make_way(key, found)
                    continue
                world.pods.see(found)
                if made and asked_at is not None:
                    metrics.POOL_REACTION.labels(key[0]).observe(monotonic() - asked_at)
                    asked_at = None
            except ApiError as error:
                if error.status in (400, 403, 422):
                    reason = f"pods can't be made: {error}"
                    told = Capacity(False, reason[:512])
                    self._tell_capacity(key, agent_key, told)
                    await self._write_status(
                        key, obj, _status(obj), Reason.POD_FAILED, reason[:1024]
                    )
                raise

    async def _make_way(self, key: ObjectKey, pod: Json) -> None:
        """Deletes a worker whose labels were taken off: no watch tells of it."""
        meta = pod["metadata"]
        if pool_of(pod) == key[1] and not meta.get("deletionTimestamp"):
            log.warning("pod %s/%s is a worker without its labels: it is deleted", *key_of(pod))
            await self._world.kube.delete(PODS, key[0], meta["name"], meta["uid"])
        self._world.wake.pool(key, LOOK_AGAIN)

    async def _drained(self, key: ObjectKey, raw: Json, pod: PodView) -> bool:
        """Tells a worker to drain; whether it holds nothing (or its time is over)."""
        try:
            inventory = await self._world.worker.drain(worker_of(raw))
        except (RefusedError, WorkerUnreachableError) as error:
            log.warning("%s can't be drained, it is deleted: %s", pod.name, error)
            return True
        self._world.contacts.heard(pod.uid, inventory)
        if pod.busy == 0 and inventory.attempts:
            self._world.wake.pool(key, 0.5)
            return False
        return True

    async def _without_agent(
        self, key: ObjectKey, obj: Json, spec: PoolSpec, view: AgentView | None
    ) -> None:
        """No Agent or no Model: its workers end. One that can't work: they go once idle."""
        if view is None or view.reason is Reason.MODEL_NOT_FOUND:
            await self._stop(key)
        else:
            await self._retire(key)
        name = spec.agent_ref.name
        if view is None:
            reason, message = Reason.AGENT_NOT_FOUND, f"spec.agentRef: there is no Agent {name!r}"
        else:
            reason, message = view.reason, f"spec.agentRef: Agent {name!r}: {view.message}"
        pods = len(self._world.pods.of_pool(key))
        status = PoolStatus(replicas=pods, selector=selector(worker_labels(name, key[1])))
        await self._write_status(key, obj, status, reason, message)

    async def _retire(self, key: ObjectKey) -> None:
        """Lets the workers take nothing more, and go once they are idle."""
        for pod in self._world.pods.of_pool(key):
            seen = self._pod_view(pod)
            self._world.slots.close(seen.uid)
            if seen.busy:
                self._world.wake.pool(key, STATUS_PERIOD)  # nobody else tells when it is idle
            elif not seen.deleting:
                await self._world.kube.delete(PODS, key[0], seen.name, seen.uid)

    async def _status(
        self,
        key: ObjectKey,
        obj: Json,
        spec: PoolSpec,
        revision: str,
        pods: list[PodView],
        plan: PoolPlan,
        queued: int,
    ) -> None:
        active = [pod for pod in pods if pod.active]
        draining = self._memory[key].draining_since
        current = [pod for pod in active if pod.revision == revision]
        ready = [pod for pod in current if pod.ready]
        status = PoolStatus(
            replicas=len(active),
            ready_replicas=sum(pod.ready and pod.uid not in draining for pod in active),
            updated_replicas=len(current),
            busy_replicas=sum(pod.busy > 0 for pod in active),
            queued_steps=queued,
            running_steps=sum(self._world.slots.held_on(pod.uid) for pod in active),
            desired_replicas=plan.desired,
            selector=selector(worker_labels(spec.agent_ref.name, key[1])),
        )
        if plan.problem:
            reason, message = Reason.POD_FAILED, plan.problem
        elif len(current) < len(active):
            reason = Reason.ROLLING_OUT
            message = f"{len(ready)} of {plan.desired} workers are ready in the new revision"
        elif len(ready) < plan.desired:
            reason, message = Reason.SCALING, f"{len(ready)} of {plan.desired} workers ready"
        else:
            reason, message = Reason.READY, ""
        for state, count in (
            ("desired", plan.desired),
            ("ready", status.ready_replicas),
            ("busy", status.busy_replicas),
        ):
            metrics.POOL_REPLICAS.labels(key[0], key[1], state).set(count)
        metrics.POOL_WORKERS_ENDED.labels(*key)  # there from the beginning, or the first is missed
        metrics.POOL_STEPS.labels(key[0], key[1], "queued").set(status.queued_steps)
        metrics.POOL_STEPS.labels(key[0], key[1], "running").set(status.running_steps)
        await self._write_status(key, obj, status, reason, message)

    async def _write_status(
        self, key: ObjectKey, obj: Json, status: PoolStatus, reason: Reason, message: str
    ) -> None:
        now = self._world.kube.now()
        previous = _status(obj)
        generation = obj["metadata"]["generation"]
        metrics.POOL_FAILING.labels(*key).set(reason is Reason.POD_FAILED)
        ready = reason is Reason.READY
        stalled = reason in (Reason.INVALID_SPEC, Reason.NOT_SUPPORTED)
        current = [
            condition(ConditionType.READY, ready, reason, message),
            condition(ConditionType.RECONCILING, not ready and not stalled, reason, message),
            condition(ConditionType.STALLED, stalled, reason, message if stalled else ""),
        ]
        status = status.model_copy(
            update={
                "observed_generation": generation,
                "conditions": merge(previous.conditions, current, generation, now),
            }
        )
        updated = with_status(obj, status)
        if updated["status"] == obj.get("status"):
            return
        news = [c.reason for c in status.conditions] != [c.reason for c in previous.conditions]
        news = news or status.desired_replicas != previous.desired_replicas
        news = news or status.ready_replicas != previous.ready_replicas
        wait = self._written.get(key, 0.0) + STATUS_PERIOD - now
        if not news and wait > 0:
            self._world.wake.pool(key, wait)
            return
        self._written[key] = now
        newest = self._world.pools.get(key) or obj
        updated["metadata"] = newest["metadata"]
        written = await self._world.put_status(POOLS, updated)
        problem = reason in (Reason.POD_FAILED, Reason.INVALID_SPEC)
        if problem and not any(c.message == message for c in previous.conditions):
            await post_event(self._world.kube, written, "Warning", reason, message)

    async def _stop(self, key: ObjectKey) -> None:
        """Ends the pool's workers, whatever they run: what they are for was deleted.

        The garbage collector would let them drain, and go on to call a model that an admin took
        away. Their attempts count as lost, and are made again if there is a worker to make them.
        """
        for pod in self._world.pods.of_pool(key):
            meta = pod["metadata"]
            self._world.slots.close(meta["uid"])
            if meta.get("deletionGracePeriodSeconds", STOP_GRACE + 1) > STOP_GRACE:
                await self._world.kube.delete(
                    PODS, key[0], meta["name"], meta["uid"], grace=STOP_GRACE
                )

    def _forget(self, key: ObjectKey) -> None:
        self._memory.pop(key, None)
        self._written.pop(key, None)
        self._specs.pop(key, None)
        metrics.forget_pool(*key)
        for pod in self._world.pods.of_pool(key):
            self._world.slots.close(pod["metadata"]["uid"])
        for agent, pools in list(self._world.capacity.items()):
            if agent[0] == key[0] and key[1] in pools:
                self._tell_capacity(key, agent, None)


def _status(obj: Json) -> PoolStatus:
    return PoolStatus.model_validate(obj.get("status") or {})
