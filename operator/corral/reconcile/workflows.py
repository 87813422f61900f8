"""A pass over a Workflow: gather, plan, commit, act.

Nothing is sent to a worker before the status that says so was written with the resourceVersion
that was read: a write that succeeds proves that the plan was made from the newest state.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from corral.api.attempt import WORKER_PORT
from corral.api.errors import Reason
from corral.api.workflow import WorkflowPhase, WorkflowSpec, WorkflowStatus
from corral.artifacts.errors import ArtifactStoreError
from corral.dispatch.attempts import Deliver
from corral.kube.client import WORKFLOWS, ApiError, Json
from corral.kube.events import post_event
from corral.plan.attempts import Place, payload_at, running_attempts
from corral.plan.budget import Reservation
from corral.plan.expressions import ExpressionError
from corral.plan.facts import NotYetKnownError
from corral.plan.holdings import models_asked, on_workers, reservations, turns
from corral.plan.kinds import (
    children_looked_at,
    children_under_way,
    wanted_approvals,
    wanted_children,
)
from corral.plan.names import ANNOTATION_CORRELATION_ID, TOOL_RUNNER
from corral.plan.observed import AgentView, ChildView, Pass, Payload, Result, Slot, Want
from corral.plan.selection import agent_of_attempt, all_steps
from corral.plan.state import (
    Consumption,
    JournalError,
    Run,
    Worker,
    from_journal,
)
from corral.plan.status import stalled_status, status_of
from corral.plan.template import called_by
from corral.plan.validate import Problem
from corral.plan.workflow import fail_too_large, plan
from corral.reconcile.announce import announce
from corral.reconcile.effective import Specs, depth_of, wanted_above
from corral.reconcile.made import approvals_of, children_of, make_approval, make_child
from corral.reconcile.priorities import Priorities
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.references import parents_of
from corral.reconcile.retire import Retirement
from corral.reconcile.retries import take_over_from
from corral.reconcile.slots import WorkflowKey
from corral.reconcile.store import ObjectKey, key_of, owned_by, workflow_status
from corral.reconcile.world import ANY_AGENT, World, with_status
from corral.telemetry import metrics
from corral.telemetry.logs import log_context

log = logging.getLogger(__name__)

_INVALID = (400, 413, 422)
LOOK_AGAIN = 5.0
"""Seconds after which what a run as a whole refers to is looked for again."""
STATUS_LIMIT = 900_000
"""Bytes of a status; etcd refuses objects of 1.5 MiB."""
OBJECT_LIMIT = 1_450_000
ROW_LIMIT = 16_384
"""Bytes that a row can't have more of: a status of few rows need not be measured."""
SMALL_STATUS = 100_000
"""Bytes that fit into etcd with any spec of OBJECT_LIMIT."""
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


class Workflows:
    """The passes over all Workflows."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._records: dict[WorkflowKey, _Record] = {}
        self.on_usage: Callable[[ObjectKey, Consumption], None] = lambda *_: None
        """Told what an attempt of an Agent used, once that is committed."""
        self._told: dict[ObjectKey, tuple[int, int]] = {}
        """By Agent: queued and running attempts when it was woken last."""
        self._specs = Specs(world)
        self._refused: dict[str, ChildView] = {}
        """Child Workflows that the API server took for invalid, by name."""
        self._abandoned: set[str] = set()
        """UIDs of child Workflows that their parents' steps do not want any more."""
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
            record = self._records.setdefault(key, _Record(uid=uid))
            run = self._run(obj, record, workflow_status(obj))
            if isinstance(run, Run):
                if (spec := self._specs.effective(obj, run).spec) is not None:
                    self._settle_budgets(key, spec, run)
                    self._resume_calls(key, spec, run)
                for memo, place in turns(run):
                    self._world.flights.claim(key, memo, place)
            await asyncio.sleep(0)

    def _resume_calls(self, key: WorkflowKey, spec: WorkflowSpec, run: Run) -> None:
        """What the run has in flight counts against its Models' limits."""
        for attempt, (agent, told) in models_asked(spec, run).items():
            view = self._world.agent_view((key[0], agent))
            for model in view.models if view else ():
                if told in (None, model.name):
                    load = model.load(structured=True)
                    self._world.slots.gates.resume(key, attempt, (key[0], model.name), load)
                    break

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
        previous = workflow_status(obj)
        run = self._run(obj, record, previous)
        if isinstance(run, Problem):
            await self._stall(obj, record, None, previous, [run])
            return
        what = self._specs.effective(obj, run)
        spec = what.spec
        began = previous.started_at is not None
        if spec is None or (what.problems and not began and not spec.shutdown):
            await self._stall(obj, record, spec, previous, what.problems)
            return
        if run.finished_for_good and run.settled:
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
        p = self._gather(key, obj, spec, run, list(results.values()), unavailable)
        agents = {one: agent_of_attempt(spec, run, one) for one in results}
        # What runs keeps its slots while the plan claims more; what has ended may be claimed anew.
        going_on = {one: at for one, at in on_workers(run).items() if one not in results}
        freed = self._world.slots.keep_only(key, going_on)
        payloads = await self._plan(key, p)
        if run.started is not None and run.template is None:
            run.template = what.template
        obj = await self._commit(key, obj, record, p, previous)
        for attempt_id in results:
            record.results.pop(attempt_id, None)
        self._acknowledge(key, results, agents)
        await self._act(key, obj, p, payloads, record)
        self._settle(key, record, p.run, spec, freed)
        await self._share(key, p)
        await self._make(key, obj, p)
        if p.run.finished_for_good:
            await self._retirement.look(key, obj, spec)
        elif p.wake:
            self._world.wake.workflow(key, max(0.0, min(p.wake) - self._world.kube.now()))

    async def _prioritise(self, key: WorkflowKey, spec: WorkflowSpec) -> tuple[Reason, str] | None:
        """Gives the run its place among the others; why that can't be told, if so."""
        name = spec.priority_class_name
        value = await self._priorities.value(name)
        self._world.slots.prioritise(key, value or 0)
        if value is not None:
            return None
        why = f"spec.priorityClassName: there is no PriorityClass {name!r}"
        return Reason.PRIORITY_CLASS_NOT_FOUND, why

    def _gather(
        self,
        key: WorkflowKey,
        obj: Json,
        spec: WorkflowSpec,
        run: Run,
        results: list[Result],
        unavailable: tuple[Reason, str] | None,
    ) -> Pass:
        world = self._world
        shutdown, suspended = wanted_above(world.workflows, obj, self._abandoned)
        update: dict[str, object] = {}
        if shutdown is not None and spec.shutdown != "Terminate":
            update["shutdown"] = shutdown
        if suspended:
            update["suspend"] = True
        spec = spec.model_copy(update=update) if update else spec
        now = world.kube.now()
        template = (obj.get("spec") or {}).get("workflowTemplateRef") or {}
        calls = called_by(spec)
        p = Pass(
            name=key[1],
            namespace=key[0],
            spec=spec,
            run=run,
            agents=self._agents(key, spec, run),
            now=now,
            results=results,
            patience_until=world.patience_until,
            depth=depth_of(world.workflows, obj),
            templates=self._specs.budgets(key[0]) if calls else None,
            memo_scope=template.get("name", ""),
            unavailable=unavailable,
            reserve_agent=lambda agent, attempt, cost, tokens: world.budgets.reserve(
                key,
                (key[0], agent),
                world.agent_budget((key[0], agent)),
                attempt,
                Reservation(cost, tokens),
            ),
            flight=lambda memo, place: world.flights.claim(key, memo, place),
            weigh=lambda attempt, model, load: world.slots.gates.weigh(
                key, key[0], attempt, model, load, world.slots.priority(key)
            ),
        )
        asked = [
            name
            for frame in p.frames.all()
            for step in frame.steps.values()
            for node in step.nodes
            if not node.final
            for name in (node.approval, *(call.approval for call in node.calls))
            if name is not None
        ]
        p.approvals = approvals_of(world, obj, asked)
        if calls:
            names = children_looked_at(p)
            p.children = children_of(world, obj, names)
            p.children |= {one: self._refused[one] for one in names & self._refused.keys()}
        if unavailable is not None:
            p.wake.append(now + LOOK_AGAIN)
        return p

    async def _plan(self, key: WorkflowKey, p: Pass) -> dict[str, Payload]:
        """Plans until nothing more has to be looked up.

        Raises:
            RetryLaterError: the artifact store can't be read or written.
        """
        world = self._world

        def claim(wants: Sequence[Want]) -> Mapping[str, Slot]:
            return world.slots.claim(key, key[0], wants)

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

    async def _make(self, key: WorkflowKey, obj: Json, p: Pass) -> None:
        """Makes the ApprovalRequests and children that the state says are there."""
        calls = bool(called_by(p.spec))
        if p.run.finished_for_good:
            if calls:
                self._tell_children(key, obj, set())
            return
        try:
            approvals, children = wanted_approvals(p), wanted_children(p)
        except NotYetKnownError:
            try:
                await self._world.library.supply(key[0], p.facts)
                approvals, children = wanted_approvals(p), wanted_children(p)
            except (ArtifactStoreError, NotYetKnownError) as error:
                raise RetryLaterError(f"what has to be made can't be told: {error}") from error
        for approval in approvals:
            await make_approval(self._world, obj, approval)
        for child in children:
            try:
                await make_child(self._world, obj, child)
            except ApiError as error:
                if error.status not in _INVALID:
                    raise
                self._refused[child.name] = ChildView(
                    phase=WorkflowPhase.FAILED, finished=True, message=str(error)
                )
                self._world.wake.workflow(key)
        if calls:
            self._tell_children(key, obj, children_under_way(p))

    def _tell_children(self, key: WorkflowKey, obj: Json, under_way: set[str]) -> None:
        """Wakes the children: they look at what is above them; the others are to end."""
        uid = obj["metadata"]["uid"]
        for child in self._world.workflows.in_namespace(key[0]):
            if owned_by(child, uid) and not (child.get("status") or {}).get("finishedAt"):
                if child["metadata"]["name"] not in under_way:
                    self._abandoned.add(child["metadata"]["uid"])
                self._world.wake.workflow(key_of(child))

    async def _share(self, key: WorkflowKey, p: Pass) -> None:
        """Keeps results for others, and lets them begin who waited for one."""
        if p.to_memoize:
            try:
                await self._world.library.memoize(p, p.to_memoize)
            except ArtifactStoreError as error:
                log.warning("results are not kept for other runs: %s", error)
        places = {
            frame.place(frame.specs[name], index)
            for frame in p.frames.all()
            for name, step in frame.steps.items()
            if frame.specs[name].memoize is not None
            for index, node in enumerate(step.nodes)
            if node.memo is not None and not node.final
        }
        for waiting in self._world.flights.settle(key, places):
            self._world.wake.workflow(waiting)

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
        names = self._agents_of(key, spec)
        if not run.finished_for_good:
            for name in names:
                self._world.users.setdefault((key[0], name), set()).add(key)
        views = {name: self._world.agent_view((key[0], name)) for name in names}
        return {name: view for name, view in views.items() if view is not None}

    def _agents_of(self, key: WorkflowKey, spec: WorkflowSpec) -> set[str]:
        """The Agents that the steps name; all of the namespace where one is looked for."""
        steps = all_steps([*(spec.steps or []), *(spec.on_exit or [])])
        names = {step.agent_ref.name for step in steps if step.agent_ref is not None}
        if any(step.tool is not None for step in steps):
            names.add(TOOL_RUNNER)
        if any(step.agent_selector is not None for step in steps):
            names |= {obj["metadata"]["name"] for obj in self._world.agents.in_namespace(key[0])}
            names.add(ANY_AGENT)
        return names

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
        self._tell_parents(written)
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
        record: _Record,
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

    def _acknowledge(
        self, key: WorkflowKey, results: Mapping[str, Result], agents: Mapping[str, str | None]
    ) -> None:
        for result in results.values():
            agent = agents.get(result.attempt_id)
            if agent is not None:
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

    async def _act(
        self, key: WorkflowKey, obj: Json, p: Pass, payloads: Mapping[str, Payload], record: _Record
    ) -> None:
        """Makes what runs be what the status says."""
        world = self._world
        for attempt_id, place in running_attempts(p).items():
            if world.attempts.following(attempt_id) or attempt_id in record.results:
                continue
            payload = payloads.get(attempt_id) or await self._payload(key, p, attempt_id, place)
            if payload is not None:
                world.attempts.follow(
                    payload, world.book(key[0]), self._inbox(key, record), correlation_id(obj)
                )
        for attempt_id, worker in p.run.unsettled.items():
            if attempt_id not in record.results:
                world.attempts.cancel(
                    attempt_id, worker, world.book(key[0]), self._inbox(key, record)
                )

    async def _payload(
        self, key: WorkflowKey, p: Pass, attempt_id: str, place: Place
    ) -> Payload | None:
        """What a running attempt was sent, after a restart; None if that can't be told any more."""
        try:
            try:
                return payload_at(p, place)
            except NotYetKnownError:
                await self._world.library.supply(key[0], p.facts)
                return payload_at(p, place)
        except ArtifactStoreError as error:
            raise RetryLaterError(f"outputs can't be read: {error}") from error
        except (ExpressionError, NotYetKnownError) as error:
            log.error("attempt %s can't be rendered again: %s", attempt_id, error)
            return None

    def _inbox(self, key: WorkflowKey, record: _Record) -> Deliver:
        def deliver(result: Result) -> None:
            self._world.slots.gates.ended(key[0], result)
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
        freed: set[ObjectKey],
    ) -> None:
        """Frees slots, and wakes who waited for them; ``freed`` were so before."""
        freed = freed | self._world.slots.keep_only(key, on_workers(run))
        self._settle_budgets(key, spec, run)
        if run.finished_for_good:
            freed |= self._world.slots.forget(key)
            self._no_longer_uses(key)
            if run.settled:
                record.run = None
                self._specs.forget(record.uid)
        agents = {(key[0], name) for name in self._agents_of(key, spec)}
        for waiting in self._world.slots.waiting_for(freed):
            if waiting != key:
                self._world.wake.workflow(waiting)
        for waiting in self._world.slots.waiting_for(self._world.slots.left_over(agents)):
            self._world.wake.workflow(waiting, COALESCE)
        for agent in agents:
            self._tell_demand(agent)

    def _settle_budgets(self, key: WorkflowKey, spec: WorkflowSpec, run: Run) -> None:
        """What the run holds of its Agents' budgets is what its state says."""
        held = {
            attempt: ((key[0], agent), reservation)
            for attempt, (agent, reservation) in reservations(spec, run).items()
            if self._world.agent_budget((key[0], agent)) is not None
        }
        for agent_key in self._world.budgets.hold_only(key, held):
            for waiting in self._world.users.get(agent_key, ()):
                self._world.wake.workflow(waiting, COALESCE)

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
        self._specs.forget(record.uid)
        self._abandoned.discard(record.uid)
        self._retirement.forget(record.uid)
        world.budgets.hold_only(key, {})
        for waiting in world.flights.settle(key, set()):
            world.wake.workflow(waiting)
        for attempt_id, worker in world.slots.workers_of(key).items():
            deliver = self._afterlife(key[0], world.slots.agent_on(worker.uid), worker)
            world.attempts.cancel(attempt_id, worker, world.book(key[0]), deliver)
        freed = world.slots.forget(key)
        self._no_longer_uses(key)
        for agent in freed:
            self._tell_demand(agent)
        for waiting in world.slots.waiting_for(freed):
            world.wake.workflow(waiting)

    def _afterlife(self, namespace: str, agent: ObjectKey | None, worker: Worker) -> Deliver:
        """What becomes of an attempt whose Workflow is gone: it is billed all the same."""

        def deliver(result: Result) -> None:
            self._world.slots.gates.ended(namespace, result)
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


def _too_large(obj: Json) -> tuple[int, int] | None:
    """The bytes of a status and how many there may be, if it has more."""
    status = obj["status"]
    rows, journal = len(status.get("steps") or []), len(status.get("journal") or "")
    if not status.get("output") and journal + rows * ROW_LIMIT < SMALL_STATUS:
        return None
    size = len(json.dumps(status, separators=(",", ":")))
    limit = min(STATUS_LIMIT, OBJECT_LIMIT - len(json.dumps(obj["spec"], separators=(",", ":"))))
    return (size, limit) if size > limit else None


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


def _on_workers_of(status: WorkflowStatus) -> dict[str, Worker]:
    return on_workers(from_journal(status.journal)) if status.journal else {}
