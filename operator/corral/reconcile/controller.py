"""The operator's main loop: leadership, queues, sweeps, and what watches tell it.

Watches run before leadership, so that a standby's stores are warm; passes run only while leading.
What the watches miss, the sweeps find: ghosts (deleted in a gap of a watch), states that nobody
told of, workers that are gone, and attempts that no status knows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

from corral.artifacts.store import ArtifactStore
from corral.artifacts.sweep import runs_of, sweep_forever
from corral.dispatch.attempts import Attempts
from corral.dispatch.client import RefusedError, WorkerClient, WorkerUnreachableError
from corral.kube.client import (
    AGENTS,
    APPROVALS,
    CRONS,
    MODELS,
    PODS,
    POOLS,
    TEMPLATES,
    WORKFLOWS,
    ApiError,
    Json,
    Kind,
    Kube,
)
from corral.kube.identities import Identities
from corral.kube.lease import Lease
from corral.kube.tokens import Tokens
from corral.ledger.writer import Ledger
from corral.plan.names import OPERATOR, WORKER_SELECTOR
from corral.plan.state import Worker
from corral.reconcile.agents import Agents
from corral.reconcile.crons import Crons
from corral.reconcile.following import worker_of
from corral.reconcile.library import Library
from corral.reconcile.measures import Measures
from corral.reconcile.pools import Pools
from corral.reconcile.queue import RetryLaterError, WorkQueue
from corral.reconcile.recount import Recount
from corral.reconcile.references import parents_of, runs_template
from corral.reconcile.store import ObjectKey, is_worker, key_of, pool_of
from corral.reconcile.workflows import Workflows
from corral.reconcile.world import Wake, World
from corral.telemetry import metrics
from corral.tracing.tracer import Tracer

log = logging.getLogger(__name__)

WATCHED = (MODELS, AGENTS, POOLS, PODS, TEMPLATES, APPROVALS, WORKFLOWS, CRONS)
INVENTORY_PERIOD = 10.0
COMPARE_PERIOD = 60.0
MANY = 100
"""If more objects than that are behind, all are listed anew and not read one by one."""
PATIENCE = 30.0
"""Seconds after a term's start in which results may be fetched that are long due."""


class Controller:
    """One operator process."""

    def __init__(
        self,
        kube: Kube,
        artifacts: ArtifactStore,
        namespace: str,
        identity: str,
        image: str,
        image_revision: str = "",
        ledger: Ledger | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._artifacts = artifacts
        self.lease = Lease(kube, namespace, OPERATOR, identity)
        self._deposed = asyncio.Event()
        tokens = Tokens(kube, namespace)
        kube.may_write = lambda: self.lease.held
        self._identities = Identities(tokens, kube.now)
        self._client = WorkerClient(
            self._token, lambda: self.lease.epoch, self._identities.doubt, tokens.forget
        )
        attempts = Attempts(self._client, self._pod_gone, self._deposed.set)
        self.world = World(
            kube=kube,
            tokens=tokens,
            worker=self._client,
            attempts=attempts,
            library=Library(artifacts, kube),
            image=image,
            image_revision=image_revision,
            ledger=ledger or Ledger(None),
            tracer=tracer or Tracer(),
        )
        self.world.pods.on_replaced = lambda pod: self._worker_gone(pod["metadata"]["uid"])
        self._workflows = Workflows(self.world)
        self._agents = Agents(self.world)
        self._recount = Recount(self.world, self._agents)
        self._pools = Pools(self.world)
        self._crons = Crons(self.world)
        self.measures = Measures(self.world)
        self._workflows.following.on_usage = self._agents.add_usage
        self._workflows.following.on_late = self._recount.due.add
        self._queues: dict[str, WorkQueue[ObjectKey]] = {
            "models": self._queue("models", self._agents.reconcile_model),
            "agents": self._queue("agents", self._agents.reconcile),
            "agentpools": self._queue("agentpools", self._pools.reconcile),
            "workflows": self._queue("workflows", self._workflows.reconcile),
            "cronworkflows": self._queue("cronworkflows", self._crons.reconcile),
        }
        self.world.wake = Wake(
            workflow=self._queues["workflows"].add,
            agent=self._queues["agents"].add,
            model=self._queues["models"].add,
            pool=self._queues["agentpools"].add,
            cron=self._queues["cronworkflows"].add,
        )
        self._ahead: dict[Kind, list[Json]] = {}
        """What the last comparison found newer than the stores, metadata only."""
        self._disowned: list[Json] = []
        """Pods that watches called deleted and that may have lost their labels instead."""
        self.world.slots.gates.wake_workflow = self._queues["workflows"].add
        self.world.slots.gates.wake_model = self._queues["models"].add
        self.synced = asyncio.Event()
        """Set once every kind has been listed."""
        self.taken_up = asyncio.Event()
        """Set once passes are made."""

    def _queue(
        self, name: str, work: Callable[[ObjectKey], Awaitable[None]]
    ) -> WorkQueue[ObjectKey]:
        async def timed(key: ObjectKey) -> None:
            if not self.lease.held:
                raise RetryLaterError("the lease was not renewed in time")
            started = perf_counter()
            try:
                await work(key)
            except RetryLaterError:
                metrics.PASS_RETRIES.labels(name).inc()
                raise
            except Exception:
                metrics.PASS_ERRORS.labels(name).inc()
                raise
            finally:
                metrics.PASSES.labels(name).observe(perf_counter() - started)

        queue = WorkQueue(name, timed, group=lambda key: key[0])
        metrics.QUEUE_DEPTH.labels(name).set_function(lambda: len(queue))
        metrics.PASS_ERRORS.labels(name)
        return queue

    def saw(self, kind: Kind, event: str | None, obj: Json) -> None:
        """What a watch tells: ``event`` is ADDED, MODIFIED, DELETED, or None from a listing."""
        store = self.world.store(kind)
        key = key_of(obj)
        if event == "DELETED":
            if kind is PODS and not obj["metadata"].get("deletionTimestamp"):
                self._disowned.append(obj)
            if store.remove(key, obj["metadata"]["uid"]):
                self._changed(kind, key, obj, gone=True)
        elif store.see(obj):
            self._changed(kind, key, obj, gone=False)

    def _changed(self, kind: Kind, key: ObjectKey, obj: Json, *, gone: bool) -> None:
        if kind is PODS:
            ended = (obj.get("status") or {}).get("phase") in ("Failed", "Succeeded")
            if gone or ended:
                self._worker_gone(obj["metadata"]["uid"])
            if pool := pool_of(obj):  # anybody may put our labels on a pod
                self._queues["agentpools"].add((key[0], pool))
            return
        if kind.plural in self._queues:
            self._queues[kind.plural].add(key)
        if kind is POOLS:
            agent = (obj.get("spec") or {}).get("agentRef", {}).get("name", "")
            self._queues["agents"].add((key[0], agent))
        elif kind is WORKFLOWS:
            for plural, name in parents_of(obj, gone=gone):
                self._queues[plural].add((key[0], name))
        elif kind is APPROVALS:
            workflow = (obj.get("spec") or {}).get("workflowRef", {}).get("name", "")
            self._queues["workflows"].add((key[0], workflow))
        elif kind is TEMPLATES:
            for workflow in self.world.workflows.in_namespace(key[0]):
                if runs_template(workflow, key[1]):
                    self._queues["workflows"].add(key_of(workflow))

    def _worker_gone(self, uid: str) -> None:
        self.world.attempts.worker_gone(uid)
        self.world.slots.withdraw(uid)
        self.world.tokens.forget(uid)
        self._identities.forget(uid)
        self.world.contacts.forget(uid)

    async def _token(self, pod_uid: str) -> str:
        try:
            return await self.world.tokens.token(pod_uid)
        except ApiError as error:
            raise WorkerUnreachableError(f"no token: {error}") from error

    async def _pod_gone(self, worker: Worker) -> bool:
        """Whether a live read says that the pod is gone or has ended; a failed one says nothing."""
        known = self.world.pods.by_uid(worker.uid)
        if known is None:
            return self.synced.is_set()
        try:
            await self._look_again(PODS, key_of(known))
        except ApiError:
            return False
        pod = self.world.pods.by_uid(worker.uid)
        return pod is None or (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")

    async def run(self) -> None:
        """Leads, until the lease is lost or a worker has heard a newer leader."""
        await self.synced.wait()
        await self.lease.acquire()
        metrics.LEADER.set(1)
        metrics.EPOCH.set(self.lease.epoch)
        tasks = [
            asyncio.create_task(self.lease.hold(), name="lease"),
            asyncio.create_task(self._deposed.wait(), name="deposed"),
        ]
        try:
            await self._catch_up()
            self.taken_up.set()
            endless = [
                *(queue.run() for queue in self._queues.values()),
                self._every(INVENTORY_PERIOD, self._sweep),
                self._every(COMPARE_PERIOD, self._compare),
                sweep_forever(self._artifacts, self._living),
                self.world.ledger.run(),
                self.world.ledger.prune_for_ever(),
                self.world.ledger.export_for_ever(),
                self._workflows.following.traces.take_up(),
                self._recount.run(),
            ]
            tasks += [asyncio.create_task(work) for work in endless]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self._deposed.is_set():
                log.error("somebody else leads: a worker has heard a later epoch")
        finally:
            metrics.LEADER.set(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.world.ledger.flush()
            await self.world.attempts.close()
            if not self._deposed.is_set():
                await self.lease.release()
            await self._client.close()
        log.error("no longer leading")

    async def _catch_up(self) -> None:
        """Sees what the leader before did last: a watch may lag behind it.

        Every worker is called before any pass, so that none listens to that leader any more.
        """
        while True:
            try:
                await self._compare(at_once=True)
                break
            except ApiError as error:
                log.warning("the API server can't be read: %s", error)
                await asyncio.sleep(1)
        await self._take_inventories(sweep=False)
        self._agents.open_accounts()
        self._agents.open_gates()
        self.measures.begin()
        await self._workflows.take_up()
        self.world.patience_until = self.world.kube.now() + PATIENCE

    async def _every(self, period: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period)
            try:
                await work()
            except ApiError as error:
                log.warning("%s: %s", work.__name__, error)
            except Exception:
                log.exception("%s failed", work.__name__)

    async def _sweep(self) -> None:
        """Ends what runs on a worker and no status knows."""
        await self._take_inventories(sweep=True)

    async def _take_inventories(self, sweep: bool) -> None:
        """Asks every worker what it holds, which tells it of this term and renews its lease."""
        running = [
            worker_of(pod)
            for pod in self.world.pods
            if (pod.get("status") or {}).get("phase") == "Running" and pod["status"].get("podIP")
        ]
        await asyncio.gather(*(self._take_inventory(worker, sweep) for worker in running))

    async def _take_inventory(self, worker: Worker, sweep: bool) -> None:
        try:
            async with asyncio.timeout(5):
                inventory = await self._client.inventory(worker)
        except RefusedError as refused:
            if refused.reason == "StaleEpoch":
                self._deposed.set()
            return
        except (WorkerUnreachableError, TimeoutError, ApiError) as error:
            log.info("no inventory of %s: %s", worker.pod, error)
            return
        self.world.contacts.heard(worker.uid, inventory)
        if not sweep:
            return
        unknown = [
            entry.attempt_id
            for entry in inventory.attempts
            if not self.world.slots.holds(entry.attempt_id)
            and not self.world.attempts.knows(entry.attempt_id)
            and not self.world.ledger.holds(entry.attempt_id)
        ]
        pod = self.world.pods.by_uid(worker.uid)
        if not unknown or pod is None or self.world.ledger.full:
            return
        try:
            strays = await self._workflows.strays(unknown)
        except ApiError as error:
            log.warning("attempts on %s can't be judged: %s", worker.pod, error)
            return
        if strays:
            log.info("%d attempts on %s are in no status", len(strays), worker.pod)
        for attempt_id, run in strays.items():
            self._workflows.following.settle_stray(run, attempt_id, pod)

    async def prime(self) -> None:
        """Lists every kind once: passes begin only when all that exists is known.

        Raises:
            ApiError: the API server could not be read.
        """
        for kind in WATCHED:
            labels = WORKER_SELECTOR if kind is PODS else ""
            for obj in await self.world.kube.list(kind, labels=labels):
                self.saw(kind, None, obj)
        self.synced.set()

    async def _living(self) -> set[ObjectKey]:
        """The runs whose stored outputs are kept."""
        newest = await self.world.kube.list_metadata(WORKFLOWS, "")
        return runs_of([*newest, *self.world.workflows])

    async def _compare(self, at_once: bool = False) -> None:
        """Finds what the watches did not tell of: deletions, and newer states.

        A watch may merely be late with a newer state: so it is read if it was there to be seen
        at the comparison before, or ``at_once``.
        """
        for kind in WATCHED:
            store = self.world.store(kind)
            before = {key_of(obj) for obj in store}
            labels = WORKER_SELECTOR if kind is PODS else ""
            listed = {key_of(obj): obj for obj in await self.world.kube.list_metadata(kind, labels)}
            ahead = [obj for obj in listed.values() if store.is_behind(obj)]
            overdue = ahead if at_once else self._ahead.get(kind, [])
            self._ahead[kind] = ahead
            if len(overdue) > MANY:
                for obj in await self.world.kube.list(kind, labels=labels):
                    self.saw(kind, None, obj)
            for key in before - listed.keys():
                await self._look_again(kind, key)
            for obj in overdue:
                if store.is_behind(obj):
                    await self._look_again(kind, key_of(obj))

        await self._delete_disowned()

    async def _delete_disowned(self) -> None:
        """Deletes workers whose labels were taken off: nobody sees them, and they were replaced."""
        while self._disowned:
            key, uid = key_of(self._disowned[-1]), self._disowned[-1]["metadata"]["uid"]
            try:
                pod = await self.world.kube.get(PODS, *key)
            except ApiError as error:
                if not error.not_found:
                    raise
                pod = {}
            if pod and pod["metadata"]["uid"] == uid and pool_of(pod) and not is_worker(pod):
                log.warning("pod %s/%s is a worker without its labels: it is deleted", *key)
                await self.world.kube.delete(PODS, *key, uid)
            self._disowned.pop()

    async def _look_again(self, kind: Kind, key: ObjectKey) -> None:
        """Takes an object as it is now, by a read of its own: a list may be old."""
        known = self.world.store(kind).get(key)
        try:
            obj = await self.world.kube.get(kind, *key)
        except ApiError as error:
            if not error.not_found:
                raise
            # A new object of the same name tells of itself by its own event.
            if known is not None and self.world.store(kind).remove(key, known["metadata"]["uid"]):
                log.info("%s %s/%s is a ghost", kind.plural, *key)
                self._changed(kind, key, known, gone=True)
            return
        if kind is PODS and not is_worker(obj):
            self.saw(PODS, "DELETED", obj)
            return
        if self.world.store(kind).is_behind(obj):
            log.info("no watch told of %s %s/%s", kind.plural, *key)
        self.saw(kind, None, obj)
