"""Makes what runs on workers be what the committed states say."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from corral.api.attempt import WORKER_PORT, AttemptReport
from corral.artifacts.errors import ArtifactStoreError
from corral.dispatch.attempts import Deliver
from corral.dispatch.client import CallContext
from corral.kube.client import Json
from corral.ledger.rows import Origin, entries_of
from corral.plan.attempts import Place, payload_at, running_attempts
from corral.plan.expressions import ExpressionError
from corral.plan.facts import NotYetKnownError
from corral.plan.keys import WorkflowKey
from corral.plan.names import LABEL_AGENT, correlation_id
from corral.plan.observed import Pass, Payload, Result
from corral.plan.state import Consumption, Run, Unbooked, Worker, total
from corral.reconcile.measures import count_start
from corral.reconcile.queue import RetryLaterError
from corral.reconcile.shares import COALESCE
from corral.reconcile.store import ObjectKey
from corral.reconcile.traces import Traces
from corral.reconcile.world import World
from corral.telemetry import metrics
from corral.tracing.attempt import Attempt

log = logging.getLogger(__name__)

MAX_UNBOOKED = 200
"""Attempts of which a run's state keeps what they used, while the ledger is away: the last ones."""
BOOKED_AGAIN = 86_400.0
"""Seconds since a run's end after which a new leader takes its rows for written."""
WORKERS_FIRST = 25.0
"""Seconds of a term in which workers are asked what they know."""


@dataclass
class Record:
    """What is remembered about a run between passes."""

    uid: str
    run: Run | None = None
    """Decoded from the newest journal; None where that has to be done again."""
    version: str = ""
    """The resourceVersion that ``run`` was decoded from."""
    fresh: bool = False
    """Whether the object was read or written by this term, and not only seen in a watch."""
    results: dict[str, Result] = field(default_factory=dict)
    """By attempt: what was delivered, and is not committed."""
    seen: float | None = None
    """When the run was planned first by this process."""
    taken_up: bool = False
    """Whether it is known what a former leader left to do."""
    unbooked: dict[str, Unbooked] = field(default_factory=dict)
    """By attempt: what that leader may not have booked, until it is."""
    newest: Json = field(default_factory=dict)
    """The Workflow, as the last pass saw it."""
    unheard: bool = False
    """Whether a write that ends the run was not answered."""


class Following:
    """Follows attempts, cancels them, acknowledges their results."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.traces = Traces(world)
        self.on_usage: Callable[[ObjectKey, Consumption], None] = lambda *_: None
        """Told what an attempt of an Agent used, once that is committed."""
        self.on_late: Callable[[ObjectKey], None] = lambda _: None
        """Told of an Agent whose sums may lack what is booked now."""

    def acknowledge(
        self,
        key: WorkflowKey,
        results: Mapping[str, Result],
        agents: Mapping[str, str | None],
        attempts: Mapping[str, Attempt],
    ) -> None:
        """Results that are committed: books them, and lets the workers drop them.

        Args:
            agents: by attempt: whose worker it was.
            attempts: what the run knew of those that are traced.
        """
        for result in results.values():
            agent = agents.get(result.attempt_id)
            if agent is not None:
                self.on_usage((key[0], agent), result.used)
            pod = self._world.pods.by_uid(result.worker_uid)
            worker = worker_of(pod) if pod is not None else None
            about = attempts.get(result.attempt_id)
            self._book(result, self._origin(key, result), agent, worker, about)
            _count(key[0], agent, result)
            outcome = result.error.value if result.error else "Succeeded"
            metrics.ATTEMPTS.labels(key[0], agent or "", outcome).inc()
            if result.worked is not None:
                metrics.ATTEMPT_SECONDS.labels(key[0], agent or "").observe(result.worked)

    def note_unbooked(
        self,
        record: Record,
        run: Run,
        results: Iterable[Result],
        agents: Mapping[str, str | None],
        now: float,
    ) -> None:
        """Has the run's state keep what the ledger does not have yet, of these results too."""
        ledger = self._world.ledger
        if not ledger.kept:
            return
        kept = {
            one: unbooked
            for one, unbooked in run.unbooked.items()
            if ledger.holds(one) or one in record.unbooked
        }
        for result in results:
            if result.charges:
                kept[result.attempt_id] = Unbooked(
                    agent=agents.get(result.attempt_id),
                    at=now,
                    error=result.error,
                    charges=result.charges,
                )
        run.unbooked = dict([*kept.items()][-MAX_UNBOOKED:])

    def take_up(self, key: WorkflowKey, record: Record, run: Run) -> None:
        """Sees to what the leader before may not have come to book.

        Where workers still know it they tell more, so it is booked when they have been asked.
        """
        if run.finished is None or self._world.kube.now() - run.finished < BOOKED_AGAIN:
            record.unbooked = dict(run.unbooked)
        if record.unbooked:
            asyncio.get_running_loop().call_later(WORKERS_FIRST, self._book_again, key, record)

    def _book_again(self, key: WorkflowKey, record: Record) -> None:
        """Books it; what is there stays as it is."""
        for attempt_id, unbooked in record.unbooked.items():
            charges, error = unbooked.charges, unbooked.error
            told = AttemptReport(attempt_id=attempt_id, pod_uid="", agent_revision="")
            used = total(charges)
            result = Result(attempt_id, "", used, error=error, charges=charges, report=told)
            self._book_late(key, result, unbooked.agent, at=unbooked.at)
        record.unbooked = {}

    async def act(
        self, key: WorkflowKey, obj: Json, p: Pass, payloads: Mapping[str, Payload], record: Record
    ) -> None:
        """Makes what runs be what the status says.

        Raises:
            RetryLaterError: an output that an attempt was sent can't be read.
        """
        attempts, book = self._world.attempts, self._world.book(key[0])
        for attempt_id, place in running_attempts(p).items():
            if attempts.following(attempt_id) or attempt_id in record.results:
                continue
            if attempt_id in payloads:
                count_start(key[0], place)
            payload = payloads.get(attempt_id) or await self._payload(key, p, attempt_id, place)
            if payload is not None:
                traceparent = self._world.tracer.attempt(obj, attempt_id)
                context = CallContext(correlation_id(obj), traceparent)
                attempts.follow(payload, book, self._inbox(key, record), context)
        for attempt_id, worker in p.run.unsettled.items():
            if attempt_id not in record.results:
                attempts.cancel(attempt_id, worker, book, self._inbox(key, record))

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

    def _inbox(self, key: WorkflowKey, record: Record) -> Deliver:
        def deliver(result: Result) -> None:
            self._world.slots.gates.ended(key[0], result)
            record.results[result.attempt_id] = result
            others = len(self._world.slots.held_by(key)) - len(record.results)
            self._world.wake.workflow(key, COALESCE if others > 0 else 0.0, urgent=True)

        return deliver

    def drop(self, key: WorkflowKey) -> None:
        """The Workflow is gone: what it runs is cancelled, and billed all the same."""
        world = self._world
        for attempt_id, worker in world.slots.workers_of(key).items():
            deliver = self._afterlife(key, world.slots.agent_on(worker.uid), worker)
            world.attempts.cancel(attempt_id, worker, world.book(key[0]), deliver)

    def _afterlife(self, key: WorkflowKey, agent: ObjectKey | None, worker: Worker) -> Deliver:
        namespace, name = key

        def deliver(result: Result) -> None:
            self._world.slots.gates.ended(namespace, result)
            if agent is not None:
                self.on_usage(agent, result.used)
            _count(namespace, agent and agent[1], result)
            origin = self._origin((namespace, name), result)
            self._book(result, origin, agent and agent[1], worker)

        return deliver

    def settle_stray(self, key: WorkflowKey | None, attempt_id: str, pod: Json) -> None:
        """Ends what no status knows: its result was recorded, or nobody will ever want it.

        What it used is booked: who recorded the result may not have come to that.
        """
        worker, namespace = worker_of(pod), pod["metadata"]["namespace"]

        def deliver(result: Result) -> None:
            agent = pod["metadata"]["labels"].get(LABEL_AGENT)
            self._book_late(key or (namespace, None), result, agent, worker)

        self._world.attempts.cancel(attempt_id, worker, self._world.book(namespace), deliver)

    def _book_late(
        self,
        key: tuple[str, str | None],
        result: Result,
        agent: str | None,
        worker: Worker | None = None,
        at: float | None = None,
    ) -> None:
        if not self._world.ledger.holds(result.attempt_id):
            self._book(result, self._origin(key, result), agent, worker, at=at)
        if agent is not None:
            self.on_late((key[0], agent))

    def _origin(self, key: tuple[str, str | None], result: Result) -> Origin:
        namespace, name = key
        run_id = result.attempt_id.split(".", 1)[0]
        obj = self._world.workflows.get((namespace, name)) if name else None
        if obj is not None and obj["metadata"]["uid"] == run_id:
            return Origin.of(obj)
        return Origin(namespace, run_id, name)

    def _book(
        self,
        result: Result,
        origin: Origin,
        agent: str | None,
        worker: Worker | None,
        about: Attempt | None = None,
        at: float | None = None,
    ) -> None:
        """Has rows and spans written; the worker keeps what they are made of until they are."""
        now, attempts = at or self._world.kube.now(), self._world.attempts

        def ack(booked: bool) -> None:
            if worker is not None:
                attempts.ack(result.attempt_id, worker, booked=booked)

        self._world.ledger.book(
            result.attempt_id,
            list(entries_of(result, origin, agent, now)),
            partial(ack, booked=True),
            partial(ack, booked=False),
            self.traces.of_attempt(result, origin, agent, worker, about, now),
        )


def _count(namespace: str, agent: str | None, result: Result) -> None:
    for charge in result.charges:
        used = charge.used
        metrics.observe_usage(
            namespace,
            agent or "",
            charge.usage.model_ref,
            used.requests,
            used.input_tokens,
            used.output_tokens,
            None if used.cost is None else float(used.cost),
            0 if charge.usage.simulated else used.unpriced_requests,
        )


def worker_of(pod: Json) -> Worker:
    """A pod as attempts refer to it."""
    address = pod.get("status", {}).get("podIP", "")
    host = f"[{address}]" if ":" in address else address
    return Worker(
        pod=pod["metadata"]["name"],
        uid=pod["metadata"]["uid"],
        url=f"http://{host}:{WORKER_PORT}",
    )
