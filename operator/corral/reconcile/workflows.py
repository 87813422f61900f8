"""A pass over a Workflow: gather, plan, commit, act.

Nothing is sent to a worker before the status that says so was written with the resourceVersion
that was read: a write that succeeds proves that the plan was made from the newest state.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping, Sequence

from corral.api.errors import Reason
from corral.api.workflow import WorkflowSpec, WorkflowStatus
from corral.artifacts.errors import ArtifactStoreError
from corral.kube.client import WORKFLOWS, ApiError, Json
from corral.kube.events import post_event
from corral.plan.holdings import on_workers
from corral.plan.keys import WorkflowKey
from corral.plan.names import correlation_id
from corral.plan.observed import Pass, Payload, Slot, Want
from corral.plan.selection import agent_of_attempt
from corral.plan.state import (
    JournalError,
    Run,
    Worker,
    from_journal,
)
from corral.plan.status import only_queued, stalled_status, status_of
from corral.plan.validate import Problem
from corral.plan.workflow import fail_too_large, plan
from corral.reconcile.announce import announce
from corral.reconcile.children import Children
from corral.reconcile.effective import Specs
from corral.reconcile.following import Following, Record
from corral.reconcile.gather import gather
from corral.reconcile.priorities import Priorities
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.references import parents_of
from corral.reconcile.retire import Retirement
from corral.reconcile.retries import take_over_from
from corral.reconcile.shares import Shares
from corral.reconcile.store import ObjectKey, key_of, workflow_status
from corral.reconcile.world import World, with_status
from corral.telemetry.logs import log_context

log = logging.getLogger(__name__)

STATUS_LIMIT = 900_000
"""Bytes of a status; etcd refuses objects of 1.5 MiB."""
OBJECT_LIMIT = 1_450_000
ROW_LIMIT = 16_384
"""Bytes that a row can't have more of: a status of few rows need not be measured."""
SMALL_STATUS = 100_000
"""Bytes that fit into etcd with any spec of OBJECT_LIMIT."""
FIRST_WRITE = 10.0
"""Seconds for which a new run that only waits for slots stays as the API server made it, Pending:
its first attempts may share its first write."""


class Workflows:
    """The passes over all Workflows."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._records: dict[WorkflowKey, Record] = {}
        self._specs = Specs(world)
        self._children = Children(world)
        self._shares = Shares(world)
        self.following = Following(world)
        self._retirement = Retirement(world)
        self._priorities = Priorities(world.kube)

    async def take_up(self) -> None:
        """Notes what the runs that a former leader began hold: money, and turns with results.

        To be called before any pass, which else might take what is another run's.
        """
        for obj in list(self._world.workflows):
            status = obj.get("status") or {}
            if status.get("finishedAt") or not status.get("journal"):
                continue
            key, uid = key_of(obj), obj["metadata"]["uid"]
            record = self._records.setdefault(key, Record(uid=uid))
            run = self._run(obj, record, workflow_status(obj))
            if isinstance(run, Run):
                self._shares.take_up(key, self._specs.effective(obj, run).spec, run)
            # What runs goes on before the thousands that have ended are looked at.
            self._world.wake.workflow(key, urgent=True)
            await asyncio.sleep(0)

    async def strays(self, attempts: Iterable[str]) -> dict[str, WorkflowKey | None]:
        """Those attempts of which the newest status says nothing, and the runs that there are.

        Raises:
            ApiError: a status can't be read.
        """
        by_run: dict[str, set[str]] = {}
        for attempt_id in attempts:
            by_run.setdefault(attempt_id.split(".", 1)[0], set()).add(attempt_id)
        keys = {obj["metadata"]["uid"]: key_of(obj) for obj in self._world.workflows}
        found: dict[str, WorkflowKey | None] = {}
        for run_id, of_run in by_run.items():
            wanted = await self._wanted(keys[run_id], run_id) if run_id in keys else {}
            found |= dict.fromkeys(of_run - wanted.keys(), keys.get(run_id))
            if wanted.keys() & of_run:
                self._world.wake.workflow(keys[run_id])
        return found

    async def _wanted(self, key: WorkflowKey, run_id: str) -> Mapping[str, Worker]:
        """What the newest state of a run has on workers; a live read."""
        try:
            obj = await self._world.kube.get(WORKFLOWS, *key)
        except ApiError as error:
            if error.not_found:
                return {}
            raise
        if obj["metadata"]["uid"] != run_id or obj["metadata"].get("deletionTimestamp"):
            return {}
        return _on_workers_of(workflow_status(obj))

    async def reconcile(self, key: WorkflowKey) -> None:
        """One pass.

        Raises:
            RetryLaterError: the API server could not be reached, or somebody else wrote first.
        """
        obj = self._world.workflows.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return
        record = self._records.get(key)
        if record is None or record.uid != obj["metadata"]["uid"]:
            self._forget(key)
            record = self._records[key] = Record(uid=obj["metadata"]["uid"])
        record.newest = obj
        with log_context(
            workflow=f"{key[0]}/{key[1]}",
            run_id=record.uid,
            correlation_id=correlation_id(obj),
            trace_id=self._world.tracer.trace_id(obj),
        ):
            try:
                await self._pass(key, obj, record)
            except ApiError as error:
                await self._api_failed(key, record, error)
            except Exception:
                record.run = None  # half-way through a plan
                raise

    async def _api_failed(self, key: WorkflowKey, record: Record, error: ApiError) -> None:
        record.run = None
        if error.not_found:
            self._world.workflows.remove(key, record.uid)
            self._forget(key)
            return
        if error.conflict:
            try:
                await self._read_again(key, record)
            except ApiError as again:
                if not again.not_found:
                    raise RetryLaterError(str(again), again.retry_after) from again
                self._world.workflows.remove(key, record.uid)
                self._forget(key)
            return
        raise RetryLaterError(str(error), error.retry_after) from error

    async def _read_again(self, key: WorkflowKey, record: Record) -> None:
        """Reads the newest state, and asks for a pass over it."""
        newest = await self._world.kube.get(WORKFLOWS, *key)
        self._world.workflows.see(newest)
        record.fresh, record.run = newest["metadata"]["uid"] == record.uid, None
        self._world.wake.workflow(key, urgent=True)

    async def _pass(self, key: WorkflowKey, obj: Json, record: Record) -> None:
        previous = workflow_status(obj)
        run = self._run(obj, record, previous)
        if isinstance(run, Problem):
            await self._stall(obj, record, None, previous, [run])
            return
        what = self._specs.effective(obj, run)
        spec = what.spec
        began = previous.started_at is not None
        if not record.taken_up:
            record.taken_up = True
            self.following.take_up(key, record, run)
        if spec is None or (what.problems and not began and not spec.shutdown):
            await self._stall(obj, record, spec, previous, what.problems)
            return
        if run.finished_for_good and run.settled:
            # Recorded by a write whose answer was lost: what they used is not on their Agent yet.
            recorded = dict(record.results)
            agents = {one: agent_of_attempt(spec, run, one) for one in recorded}
            attempts = self.following.traces.attempts(obj, run, recorded)
            record.results.clear()
            self.following.acknowledge(key, recorded, agents, attempts)
            if record.unheard:
                self.following.traces.ended(obj, run)
                record.unheard = False
            self._settle(key, record, run, spec, set())
            await self._retirement.look(key, obj, spec)
            if previous.observed_generation == obj["metadata"]["generation"]:
                return
        if not record.fresh and (running := on_workers(run)):
            log.info("resuming", extra={"attempts": len(running)})
            await self._read_again(key, record)
            return
        unavailable = what.unavailable
        if not began and unavailable is None:
            lacking = await take_over_from(self._world, self._specs, obj, spec, run)
            if isinstance(lacking, Problem):
                await self._stall(obj, record, spec, previous, [lacking])
                return
            unavailable = lacking
        unavailable = unavailable or await self._prioritise(key, spec)
        results = dict(record.results)
        p = gather(
            self._world,
            self._specs,
            self._children,
            key,
            obj,
            spec,
            run,
            list(results.values()),
            unavailable,
        )
        if not began:
            p.trace_id = self._world.tracer.begin(obj)
        agents = {one: agent_of_attempt(spec, run, one) for one in results}
        attempts = self.following.traces.attempts(obj, run, results)
        # What runs keeps its slots while the plan claims more; what has ended may be claimed anew.
        going_on = {one: at for one, at in on_workers(run).items() if one not in results}
        freed = self._world.slots.keep_only(key, going_on)
        payloads = await self._plan(key, p)
        if not began and self._can_wait(key, record, p):
            self._settle(key, record, p.run, spec, freed)
            record.run = None
            return
        if run.started is not None and run.template is None:
            run.template = what.template
        await self._shares.memoize(p)
        if results:
            self.following.note_unbooked(record, p.run, results.values(), agents, p.now)
        obj = await self._commit(key, obj, record, p, previous)
        for attempt_id in results:
            record.results.pop(attempt_id, None)
        self.following.acknowledge(key, results, agents, attempts)
        await self.following.act(key, obj, p, payloads, record)
        self._settle(key, record, p.run, spec, freed)
        self._shares.publish(key, p)
        await self._children.make(key, obj, p)
        if p.run.finished_for_good:
            await self._retirement.look(key, obj, spec)
        elif p.wake:
            self._world.wake.workflow(key, max(0.0, min(p.wake) - self._world.kube.now()))

    def _can_wait(self, key: WorkflowKey, record: Record, p: Pass) -> bool:
        """Whether the first write can wait for a slot; asks for the pass that won't."""
        if record.seen is None:
            record.seen = p.now
        left = record.seen + FIRST_WRITE - p.now
        if left <= 0 or p.warnings or not only_queued(p):
            return False
        self._world.wake.workflow(key, left)
        return True

    async def _prioritise(self, key: WorkflowKey, spec: WorkflowSpec) -> tuple[Reason, str] | None:
        """Gives the run its place among the others; why that can't be told, if so."""
        name = spec.priority_class_name
        value = await self._priorities.value(name)
        self._world.slots.prioritise(key, value or 0)
        if value is not None:
            return None
        why = f"spec.priorityClassName: there is no PriorityClass {name!r}"
        return Reason.PRIORITY_CLASS_NOT_FOUND, why

    async def _plan(self, key: WorkflowKey, p: Pass) -> dict[str, Payload]:
        """Plans until nothing more has to be looked up.

        Raises:
            RetryLaterError: the artifact store can't be read or written.
        """
        world = self._world

        def claim(wants: Sequence[Want]) -> Mapping[str, Slot]:
            return world.slots.claim(key, key[0], wants, p.now)

        payloads = plan(p, claim)
        try:
            while p.facts.needs:
                await world.library.supply(key[0], p.facts)
                p.results = ()
                payloads |= plan(p, claim)
            p.held_back = world.slots.gates.held_back(key)
            await world.library.keep(key[0], p.run.run_id, p.to_store)
        except ArtifactStoreError as error:
            raise RetryLaterError(f"outputs can't be stored or read: {error}") from error
        return payloads

    def _run(self, obj: Json, record: Record, previous: WorkflowStatus) -> Run | Problem:
        version = obj["metadata"]["resourceVersion"]
        if record.run is not None and record.version == version:
            return record.run
        if previous.journal is None:
            return Run(run_id=record.uid)
        try:
            record.run = from_journal(previous.journal)
        except JournalError as error:
            return Problem("status.journal", str(error))
        record.version = version
        return record.run

    async def _commit(
        self, key: WorkflowKey, obj: Json, record: Record, p: Pass, previous: WorkflowStatus
    ) -> Json:
        """Writes the status if it differs; the newest object either way."""
        generation = obj["metadata"]["generation"]
        updated = with_status(obj, status_of(p, previous, generation))
        if updated["status"] == obj.get("status"):
            return obj
        if (problem := _too_large(updated)) is not None:
            fail_too_large(p, *problem)
            updated = with_status(obj, status_of(p, previous, generation))
        try:
            written = await self._world.kube.put_status(WORKFLOWS, updated)
        except ApiError:
            self._world.slots.keep_only(key, _on_workers_of(previous))
            record.unheard = p.run.finished_for_good
            raise
        self._world.workflows.see(written)
        record.run, record.fresh, record.newest = p.run, True, written
        record.version = written["metadata"]["resourceVersion"]
        self._tell_parents(written)
        if p.run.finished_for_good and (previous.finished_at is None or record.unheard):
            self.following.traces.ended(written, p.run)
            record.unheard = False
        await announce(self._world.kube, previous, written, p)
        return written

    def _tell_parents(self, written: Json) -> None:
        """Wakes who made the Workflow: the watch tells nothing new of what was written here."""
        for plural, name in parents_of(written, gone=False):
            of_workflow = plural == WORKFLOWS.plural
            wake = self._world.wake.workflow if of_workflow else self._world.wake.cron
            wake((written["metadata"]["namespace"], name))

    async def _stall(
        self,
        obj: Json,
        record: Record,
        spec: WorkflowSpec | None,
        previous: WorkflowStatus,
        problems: list[Problem],
    ) -> None:
        status = stalled_status(
            spec,
            problems,
            record.uid,
            previous,
            obj["metadata"]["generation"],
            self._world.kube.now(),
        )
        updated = with_status(obj, status)
        if updated["status"] == obj.get("status"):
            return
        written = await self._world.kube.put_status(WORKFLOWS, updated)
        self._world.workflows.see(written)
        self._tell_parents(written)
        record.run = None
        reason = str(problems[0].reason)
        await post_event(self._world.kube, written, "Warning", reason, status.message or "")

    def _settle(
        self,
        key: WorkflowKey,
        record: Record,
        run: Run,
        spec: WorkflowSpec,
        freed: set[ObjectKey],
    ) -> None:
        self._shares.settle(key, spec, run, freed)
        if run.finished_for_good and run.settled:
            record.run = None
            self._specs.forget(record.uid)

    def _forget(self, key: WorkflowKey) -> None:
        """The Workflow is gone: what runs is cancelled, and nothing of it is kept."""
        record = self._records.pop(key, None)
        if record is None:
            return
        self.following.traces.gone(record.newest)
        self._specs.forget(record.uid)
        self._children.forget(record.uid)
        self._retirement.forget(record.uid)
        self.following.drop(key)
        self._shares.drop(key)


def _too_large(obj: Json) -> tuple[int, int] | None:
    """The bytes of a status and how many there may be, if it has more."""
    status = obj["status"]
    rows, journal = len(status.get("steps") or []), len(status.get("journal") or "")
    if not status.get("output") and journal + rows * ROW_LIMIT < SMALL_STATUS:
        return None
    size = len(json.dumps(status, separators=(",", ":")))
    limit = min(STATUS_LIMIT, OBJECT_LIMIT - len(json.dumps(obj["spec"], separators=(",", ":"))))
    return (size, limit) if size > limit else None


def _on_workers_of(status: WorkflowStatus) -> dict[str, Worker]:
    return on_workers(from_journal(status.journal)) if status.journal else {}
