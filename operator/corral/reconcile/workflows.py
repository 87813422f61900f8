"""A pass over a Workflow: gather, plan, commit, act.

Nothing is sent to a worker before the status that says so was written with the resourceVersion
that was read: a write that succeeds proves that the plan was made from the newest state.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from corral.api.attempt import WORKER_PORT
from corral.api.errors import ConditionType, Reason
from corral.api.workflow import WorkflowPhase, WorkflowSpec, WorkflowStatus
from corral.dispatch.attempts import Deliver
from corral.kube.client import WORKFLOWS, ApiError, Json
from corral.kube.events import post_event
from corral.plan import state
from corral.plan.conditions import find
from corral.plan.expressions import ExpressionError
from corral.plan.names import ANNOTATION_CORRELATION_ID
from corral.plan.observed import AgentView, Pass, Payload, Result, Slot, Want
from corral.plan.state import Consumption, JournalError, Run, Worker, from_journal
from corral.plan.status import stalled_status, status_of
from corral.plan.validate import Problem, workflow_problems
from corral.plan.workflow import fail_too_large, payload_of, plan, running_attempts
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.slots import WorkflowKey
from corral.reconcile.store import ObjectKey, key_of
from corral.reconcile.world import World, read_spec, with_status
from corral.telemetry import metrics
from corral.telemetry.logs import log_context

log = logging.getLogger(__name__)

STATUS_LIMIT = 900_000
"""Bytes of a status; etcd refuses objects of 1.5 MiB."""
OBJECT_LIMIT = 1_450_000
ROW_LIMIT = 16_384
"""Bytes that a row can't have more of: a status of few rows need not be measured."""
SETTLED_DEMAND_DELAY = 0.25
"""Seconds after which agents hear of demand that merely changed."""
COALESCE = 0.05
"""Seconds for which a result waits for others that may come."""


@dataclass
class _Record:
    """What is remembered about a run between passes."""

    uid: str
    run: Run | None = None
    """Decoded from the newest journal; None where that has to be done again."""
    version: str = ""
    """The resourceVersion that ``run`` was decoded from."""
    fresh: bool = False
    """Whether the object was read or written by this term, and not only seen in a watch."""
    results: dict[str, Result] = field(default_factory=dict)
    checked: tuple[int, WorkflowSpec | None, list[Problem]] | None = None
    """The generation that was validated last, its spec and its problems."""


class Workflows:
    """The passes over all Workflows."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._records: dict[WorkflowKey, _Record] = {}
        self.on_usage: Callable[[ObjectKey, Consumption], None] = lambda *_: None
        """Told what an attempt of an Agent used, once that is committed."""
        self._told: dict[ObjectKey, tuple[int, int]] = {}
        """By Agent: queued and running attempts when it was woken last."""

    async def strays(self, attempts: Iterable[str]) -> set[str]:
        """Those attempts of which the newest status says nothing: recorded, or of no run at all.

        Raises:
            ApiError: a status can't be read.
        """
        by_run: dict[str, set[str]] = {}
        for attempt_id in attempts:
            by_run.setdefault(attempt_id.split(".", 1)[0], set()).add(attempt_id)
        keys = {obj["metadata"]["uid"]: key_of(obj) for obj in self._world.workflows}
        found: set[str] = set()
        for run_id, of_run in by_run.items():
            wanted = await self._wanted(keys[run_id], run_id) if run_id in keys else {}
            found |= of_run - wanted.keys()
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
        return _on_workers_of(_status(obj))

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
            record = self._records[key] = _Record(uid=obj["metadata"]["uid"])
        with log_context(
            workflow=f"{key[0]}/{key[1]}", run_id=record.uid, correlation_id=correlation_id(obj)
        ):
            try:
                await self._pass(key, obj, record)
            except ApiError as error:
                await self._api_failed(key, record, error)
            except Exception:
                record.run = None  # half-way through a plan
                raise

    async def _api_failed(self, key: WorkflowKey, record: _Record, error: ApiError) -> None:
        record.run = None
        if error.not_found:
            self._world.workflows.remove(key, record.uid)
            self._forget(key)
            return
        if error.conflict:
            metrics.CONFLICTS.inc()
            try:
                await self._read_again(key, record)
            except ApiError as again:
                if not again.not_found:
                    raise RetryLaterError(str(again), again.retry_after) from again
                self._world.workflows.remove(key, record.uid)
                self._forget(key)
            return
        raise RetryLaterError(str(error), error.retry_after) from error

    async def _read_again(self, key: WorkflowKey, record: _Record) -> None:
        """Reads the newest state, and asks for a pass over it."""
        newest = await self._world.kube.get(WORKFLOWS, *key)
        self._world.workflows.see(newest)
        record.fresh, record.run = newest["metadata"]["uid"] == record.uid, None
        self._world.wake.workflow(key)

    async def _pass(self, key: WorkflowKey, obj: Json, record: _Record) -> None:
        spec, problems = self._checked(obj, record)
        previous = _status(obj)
        if spec is None or (problems and previous.started_at is None and not spec.shutdown):
            await self._stall(obj, record, previous, problems)
            return
        run = self._run(obj, record, previous)
        if isinstance(run, Problem):
            await self._stall(obj, record, previous, [run])
            return
        if run.finished_for_good and not run.unsettled:
            self._settle(key, record, run, spec, {}, set())
            if previous.observed_generation == obj["metadata"]["generation"]:
                return
        if not record.fresh and (running := _on_workers(run)):
            log.info("resuming", extra={"attempts": len(running)})
            await self._read_again(key, record)
            return
        results = dict(record.results)
        p = Pass(
            name=key[1],
            namespace=key[0],
            spec=spec,
            run=run,
            agents=self._agents(key, spec, run),
            now=self._world.kube.now(),
            results=list(results.values()),
            patience_until=self._world.patience_until,
        )
        # What runs keeps its slots while the plan claims more; what has ended may be claimed anew.
        going_on = {one: at for one, at in _on_workers(run).items() if one not in results}
        freed = self._world.slots.keep_only(key, going_on)

        def claim(wants: Sequence[Want]) -> Mapping[str, Slot]:
            return self._world.slots.claim(key, key[0], wants)

        payloads = plan(p, claim)
        obj = await self._commit(key, obj, record, p, previous)
        for attempt_id in results:
            record.results.pop(attempt_id, None)
        self._acknowledge(key, results, spec)
        self._act(key, obj, p, payloads, record)
        self._settle(key, record, p.run, spec, _on_workers(p.run), freed)
        if p.wake and not p.run.finished_for_good:
            self._world.wake.workflow(key, max(0.0, min(p.wake) - self._world.kube.now()))

    def _checked(self, obj: Json, record: _Record) -> tuple[WorkflowSpec | None, list[Problem]]:
        generation = obj["metadata"]["generation"]
        if record.checked is None or record.checked[0] != generation:
            spec = read_spec(WorkflowSpec, obj)
            if isinstance(spec, WorkflowSpec):
                record.checked = (generation, spec, workflow_problems(spec))
            else:
                record.checked = (generation, None, spec)
        return record.checked[1], record.checked[2]

    def _run(self, obj: Json, record: _Record, previous: WorkflowStatus) -> Run | Problem:
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

    def _agents(self, key: WorkflowKey, spec: WorkflowSpec, run: Run) -> dict[str, AgentView]:
        names = _agents_of(spec)
        if not run.finished_for_good:
            for name in names:
                self._world.users.setdefault((key[0], name), set()).add(key)
        views = {name: self._world.agent_view((key[0], name)) for name in names}
        return {name: view for name, view in views.items() if view is not None}

    async def _commit(
        self, key: WorkflowKey, obj: Json, record: _Record, p: Pass, previous: WorkflowStatus
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
            raise
        self._world.workflows.see(written)
        record.run, record.fresh = p.run, True
        record.version = written["metadata"]["resourceVersion"]
        await self._announce(previous, written, p)
        return written

    async def _stall(
        self, obj: Json, record: _Record, previous: WorkflowStatus, problems: list[Problem]
    ) -> None:
        status = stalled_status(
            record.checked[1] if record.checked else None,
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
        record.run = None
        reason = str(problems[0].reason)
        await post_event(self._world.kube, written, "Warning", reason, status.message or "")

    def _acknowledge(
        self, key: WorkflowKey, results: Mapping[str, Result], spec: WorkflowSpec
    ) -> None:
        agents = {
            step.name: step.agent_ref.name
            for step in [*(spec.steps or []), *(spec.on_exit or [])]
            if step.agent_ref is not None
        }
        for result in results.values():
            agent = agents.get(result.attempt_id.split(".")[1], "")
            self.on_usage((key[0], agent), result.used)
            pod = self._world.pods.by_uid(result.worker_uid)
            if pod is not None:
                self._world.attempts.ack(result.attempt_id, worker_of(pod))
            used = result.used
            metrics.observe_attempt(
                key[0],
                result.error.value if result.error else "Succeeded",
                used.input_tokens,
                used.output_tokens,
                None if used.cost is None else float(used.cost),
                used.unpriced_requests,
            )

    def _act(
        self, key: WorkflowKey, obj: Json, p: Pass, payloads: Mapping[str, Payload], record: _Record
    ) -> None:
        """Makes what runs be what the status says."""
        world = self._world
        for attempt_id in running_attempts(p):
            if world.attempts.following(attempt_id) or attempt_id in record.results:
                continue
            try:
                payload = payloads.get(attempt_id) or payload_of(p, attempt_id)
            except ExpressionError as error:
                log.error("attempt %s can't be rendered again: %s", attempt_id, error)
                continue
            if payload is not None:
                world.attempts.follow(
                    payload, world.book(key[0]), self._inbox(key, record), correlation_id(obj)
                )
        for attempt_id, worker in p.run.unsettled.items():
            if attempt_id not in record.results:
                world.attempts.cancel(
                    attempt_id, worker, world.book(key[0]), self._inbox(key, record)
                )

    def _inbox(self, key: WorkflowKey, record: _Record) -> Deliver:
        def deliver(result: Result) -> None:
            record.results[result.attempt_id] = result
            others = len(self._world.slots.held_by(key)) - len(record.results)
            self._world.wake.workflow(key, COALESCE if others > 0 else 0.0)

        return deliver

    def _settle(
        self,
        key: WorkflowKey,
        record: _Record,
        run: Run,
        spec: WorkflowSpec,
        running: Mapping[str, Worker],
        freed: set[ObjectKey],
    ) -> None:
        """Frees slots, and wakes who waited for them; ``freed`` were so before."""
        freed = freed | self._world.slots.keep_only(key, running)
        if run.finished_for_good:
            freed |= self._world.slots.forget(key)
            self._no_longer_uses(key)
            if not run.unsettled:
                record.run = record.checked = None
        agents = {(key[0], name) for name in _agents_of(spec)}
        for waiting in self._world.slots.waiting_for(freed):
            if waiting != key:
                self._world.wake.workflow(waiting)
        for waiting in self._world.slots.waiting_for(self._world.slots.left_over(agents)):
            self._world.wake.workflow(waiting, COALESCE)
        for agent in agents:
            self._tell_demand(agent)

    def _tell_demand(self, agent: ObjectKey) -> None:
        """Wakes an Agent if more or less is asked of it: at once where nothing waited before."""
        slots = self._world.slots
        demand = slots.queued(agent), slots.running(agent)
        before = self._told.get(agent, (0, 0))
        if demand == before:
            return
        if demand == (0, 0):
            self._told.pop(agent, None)
        else:
            self._told[agent] = demand
        begins = demand[0] > 0 and before[0] == 0
        self._world.wake.agent(agent, 0 if begins else SETTLED_DEMAND_DELAY)

    def _forget(self, key: WorkflowKey) -> None:
        """The Workflow is gone: what runs is cancelled, and nothing of it is kept."""
        record = self._records.pop(key, None)
        if record is None:
            return
        world = self._world
        for attempt_id, worker in world.slots.workers_of(key).items():
            deliver = self._afterlife(world.slots.agent_on(worker.uid), worker)
            world.attempts.cancel(attempt_id, worker, world.book(key[0]), deliver)
        freed = world.slots.forget(key)
        self._no_longer_uses(key)
        for agent in freed:
            self._tell_demand(agent)
        for waiting in world.slots.waiting_for(freed):
            world.wake.workflow(waiting)

    def _afterlife(self, agent: ObjectKey | None, worker: Worker) -> Deliver:
        """What becomes of an attempt whose Workflow is gone: it is billed all the same."""

        def deliver(result: Result) -> None:
            if agent is not None:
                self.on_usage(agent, result.used)
            self._world.attempts.ack(result.attempt_id, worker)

        return deliver

    def _no_longer_uses(self, key: WorkflowKey) -> None:
        users = self._world.users
        for agent in [agent for agent, keys in users.items() if key in keys]:
            users[agent].discard(key)
            if not users[agent]:
                del users[agent]

    async def _announce(self, previous: WorkflowStatus, written: Json, p: Pass) -> None:
        """Events for what a person looks for: start, end, suspension, what is missing."""
        kube = self._world.kube
        run = p.run
        if run.phase is not previous.phase:
            metrics.WORKFLOW_TRANSITIONS.labels(p.namespace, run.phase.value).inc()
        if run.phase in (previous.phase, WorkflowPhase.PENDING):
            await self._announce_waiting(previous, written)
        elif run.phase is WorkflowPhase.RUNNING:
            await post_event(kube, written, "Normal", "Started", f"{len(run.steps)} steps")
        elif run.phase is WorkflowPhase.SUSPENDED:
            await post_event(kube, written, "Normal", Reason.SUSPENDED, "nothing new starts")
        elif run.phase is WorkflowPhase.SUCCEEDED:
            cost = run.used().cost_text
            told = f"cost {cost} USD" if cost is not None else "no cost is known"
            await post_event(kube, written, "Normal", "Succeeded", told)
        elif run.finished_for_good:
            await post_event(kube, written, "Warning", run.phase.value, run.message or "")

    async def _announce_waiting(self, previous: WorkflowStatus, written: Json) -> None:
        before = find(previous.conditions, ConditionType.RECONCILING)
        after = find(_status(written).conditions, ConditionType.RECONCILING)
        if (
            after is not None
            and after.reason != Reason.PROGRESSING
            and (before is None or before.reason != after.reason)
            and after.message
        ):
            await post_event(self._world.kube, written, "Warning", after.reason, after.message)


def _too_large(obj: Json) -> tuple[int, int] | None:
    """The bytes of a status and how many there may be, if it has more."""
    status = obj["status"]
    rows, journal = len(status.get("steps") or []), len(status.get("journal") or "")
    if not status.get("output") and journal + rows * ROW_LIMIT < STATUS_LIMIT // 2:
        return None
    size = len(json.dumps(status, separators=(",", ":")))
    limit = min(STATUS_LIMIT, OBJECT_LIMIT - len(json.dumps(obj["spec"], separators=(",", ":"))))
    return (size, limit) if size > limit else None


def _agents_of(spec: WorkflowSpec) -> set[str]:
    return {
        step.agent_ref.name
        for step in [*(spec.steps or []), *(spec.on_exit or [])]
        if step.agent_ref is not None
    }


def correlation_id(obj: Json) -> str:
    """The user's correlation id, or the run's."""
    annotations = obj["metadata"].get("annotations") or {}
    return str(annotations.get(ANNOTATION_CORRELATION_ID) or obj["metadata"]["uid"])


def worker_of(pod: Json) -> Worker:
    """A pod as attempts refer to it."""
    address = pod.get("status", {}).get("podIP", "")
    host = f"[{address}]" if ":" in address else address
    return Worker(
        pod=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        url=f"http://{host}:{WORKER_PORT}",
    )


def _status(obj: Json) -> WorkflowStatus:
    try:
        return WorkflowStatus.model_validate(obj.get("status") or {})
    except ValidationError:
        # Written by somebody who may: what can't be read is made anew, the journal is kept.
        return WorkflowStatus(journal=(obj.get("status") or {}).get("journal"))


def _on_workers(run: Run) -> dict[str, Worker]:
    """The attempts that hold a slot: those that run, and those that are being cancelled."""
    steps = {**run.steps, **run.exit_steps}
    running = {
        state.attempt_id(run.run_id, name, index, node.attempt): node.worker
        for name, step in steps.items()
        if not step.final
        for index, node in enumerate(step.nodes)
        if node.worker is not None
    }
    return running | run.unsettled


def _on_workers_of(status: WorkflowStatus) -> dict[str, Worker]:
    return _on_workers(from_journal(status.journal)) if status.journal else {}
