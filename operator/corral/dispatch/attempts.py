"""Attempts under way: each is followed to its end, and its result delivered once.

The same attempt is sent to the same worker until that worker answers or is gone, never to
another: that is the planner's decision, and a new attempt. What should be under way is told on
every pass (``follow``, ``cancel``), so that nothing depends on what an earlier process did.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from corral.api.attempt import AttemptReport, ModelUsage
from corral.api.errors import ErrorClass
from corral.dispatch.client import (
    CallContext,
    RefusedError,
    Task,
    WorkerClient,
    WorkerUnreachableError,
)
from corral.plan.observed import ModelCalls, Payload, Result
from corral.plan.state import Charge, Consumption, Worker, total
from corral.telemetry import metrics
from corral.telemetry.logs import log_context

log = logging.getLogger(__name__)

ACK_DELAY = 0.1
POLL_PAUSE = 0.1
"""Seconds between an answer that an attempt goes on and the next question."""
LONGEST_HOLD = 3600.0
"""Seconds for which a Model is left alone at the most, however long its provider asks for."""
MAX_GONE = 4096
"""Pods that are remembered as gone."""

Book = Callable[[AttemptReport], Sequence[Charge]]
"""Prices what an attempt used."""
Deliver = Callable[[Result], None]
Gone = Callable[[Worker], Awaitable[bool]]
"""Whether the API server says that the pod is gone; a live read."""


@dataclass(frozen=True)
class _Followed:
    task: asyncio.Task[None]
    worker: Worker
    deliver: Deliver


class WorkerGoneError(Exception):
    """The pod is gone, and with it what ran there."""


class Attempts:
    """The attempts under way in this process."""

    def __init__(self, client: WorkerClient, gone: Gone, stale_epoch: Callable[[], None]) -> None:
        self._client = client
        self._gone = gone
        self._stale_epoch = stale_epoch
        self._following: dict[str, _Followed] = {}
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._acks: dict[str, tuple[Worker, dict[str, bool]]] = {}
        """By worker: attempts, and whether they are booked too."""
        self._ack_tasks: dict[str, asyncio.Task[None]] = {}
        self._lost: dict[str, asyncio.Event] = {}

    def knows(self, attempt_id: str) -> bool:
        """Whether the attempt is followed, being cancelled, or about to be acknowledged."""
        return (
            attempt_id in self._following
            or attempt_id in self._cancelling
            or any(attempt_id in waiting for _, waiting in self._acks.values())
        )

    def unacked(self, worker_uid: str) -> int:
        """Results of that worker that are committed and not yet acknowledged."""
        return len(self._acks.get(worker_uid, (None, {}))[1])

    def following(self, attempt_id: str) -> bool:
        return attempt_id in self._following

    def follow(
        self,
        payload: Payload,
        book: Book,
        deliver: Deliver,
        context: CallContext,
    ) -> None:
        """Starts the attempt, or attaches to it; ``deliver`` gets its result, once."""
        if payload.attempt_id in self._following:
            return
        work = self._follow(payload, book, deliver, context)
        task = asyncio.create_task(work, name=payload.attempt_id)
        self._following[payload.attempt_id] = _Followed(task, payload.worker, deliver)
        task.add_done_callback(lambda _: self._following.pop(payload.attempt_id, None))

    async def _follow(
        self, payload: Payload, book: Book, deliver: Deliver, context: CallContext
    ) -> None:
        worker, started = payload.worker, monotonic()
        try:
            with log_context(correlation_id=context.correlation_id, attempt_id=payload.attempt_id):
                task = await self._until_ended(payload, context)
                result = _result(payload.attempt_id, task, worker, book)
                on_the_way = monotonic() - started - (result.worked or 0.0)
                if on_the_way >= 0:  # else it was attached to, and sent by another process
                    metrics.DISPATCH_SECONDS.observe(on_the_way)
                deliver(result)
        except RefusedError as refused:
            log.warning("attempt %s was refused: %s", payload.attempt_id, refused)
            deliver(_lost(payload.attempt_id, worker, _class_of(refused), str(refused)))
        except WorkerGoneError:
            message = f"worker {worker.pod} is gone"
            deliver(_lost(payload.attempt_id, worker, ErrorClass.WORKER_LOST, message))
        except Exception as error:
            # Never without a word: nobody would follow the attempt before its deadline.
            log.exception("attempt %s can't be followed", payload.attempt_id)
            message = f"the worker's answer can't be understood: {type(error).__name__}"
            deliver(_lost(payload.attempt_id, worker, ErrorClass.INTERNAL, message))

    async def _until_ended(self, payload: Payload, context: CallContext) -> Task:
        async def once() -> Task:
            return await self._client.send(payload, context)

        task: Task = await self._persist(payload.worker, once)
        while not task.final:
            # A repeated send attaches; a GET is smaller, and 404 there means send again.
            async def again() -> Task:
                return await self._client.get(payload.worker, payload.attempt_id)

            await asyncio.sleep(POLL_PAUSE)  # for a worker that does not wait as it is asked to

            try:
                task = await self._persist(payload.worker, again)
            except RefusedError as refused:
                if refused.reason != "404":
                    raise
                task = await self._persist(payload.worker, once)
        return task

    async def _persist(self, worker: Worker, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls until the worker answers or is gone."""
        async for attempt in AsyncRetrying(
            wait=wait_exponential_jitter(initial=0.2, max=5, jitter=0.1),
            retry=retry_if_exception_type(WorkerUnreachableError),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1 and await self._is_gone(worker):
                    raise WorkerGoneError
                return await self._while_alive(worker, call)
        raise AssertionError("tenacity stops only by an exception")

    async def _while_alive(self, worker: Worker, call: Callable[[], Awaitable[Any]]) -> Any:
        """Calls, and stops waiting for the answer once the pod is known to be gone."""
        lost = asyncio.ensure_future(self._lost_event(worker.uid).wait())
        answer = asyncio.ensure_future(call())
        try:
            await asyncio.wait({lost, answer}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return self._checked(answer)
            raise WorkerGoneError
        finally:
            lost.cancel()
            answer.cancel()

    def _checked(self, answer: "asyncio.Future[Any]") -> Any:
        try:
            return answer.result()
        except RefusedError as refused:
            if refused.reason == "StaleEpoch":
                self._stale_epoch()
            raise

    async def _is_gone(self, worker: Worker) -> bool:
        if self._lost_event(worker.uid).is_set():
            return True
        if await self._gone(worker):
            self.worker_gone(worker.uid)
            return True
        return False

    def worker_gone(self, uid: str) -> None:
        """Tells that a pod is gone for good."""
        self._lost_event(uid).set()
        self._acks.pop(uid, None)
        # Who still waits holds the event; who asks later is told by the API server.
        gone = sum(event.is_set() for event in self._lost.values())
        if gone > MAX_GONE:
            for old in [key for key, event in self._lost.items() if event.is_set()][: gone // 2]:
                del self._lost[old]

    def worker_lost(self, worker: Worker, *, retried: bool) -> None:
        """Gives up what is followed on a worker that may still run it, and can't be reached."""
        for attempt_id, followed in list(self._following.items()):
            if followed.worker.uid != worker.uid:
                continue
            self._following.pop(attempt_id).task.cancel()
            message = f"worker {worker.pod} and its node can't be reached; this may still run there"
            if retried:
                message += " and may overlap with the next attempt"
            lost = _lost(attempt_id, worker, ErrorClass.WORKER_LOST, message)
            followed.deliver(replace(lost, unreachable=True, final=not retried))

    def _lost_event(self, uid: str) -> asyncio.Event:
        return self._lost.setdefault(uid, asyncio.Event())

    def cancel(self, attempt_id: str, worker: Worker, book: Book, deliver: Deliver) -> None:
        """Cancels; ``deliver`` gets what was used."""
        followed = self._following.pop(attempt_id, None)
        if followed is not None:
            followed.task.cancel()
        if attempt_id in self._cancelling:
            return
        work = self._cancel(attempt_id, worker, book, deliver)
        task = asyncio.create_task(work, name=f"cancel {attempt_id}")
        self._cancelling[attempt_id] = task
        task.add_done_callback(lambda _: self._cancelling.pop(attempt_id, None))

    async def _cancel(self, attempt_id: str, worker: Worker, book: Book, deliver: Deliver) -> None:
        async def once() -> Task | None:
            task = await self._client.cancel(worker, attempt_id)
            if task is not None and not task.final:
                raise WorkerUnreachableError("it has not stopped yet")
            return task

        try:
            task = await self._persist(worker, once)
        except (RefusedError, WorkerGoneError) as error:
            log.info("attempt %s is not there to be cancelled: %s", attempt_id, error)
            task = None
        result = _lost(attempt_id, worker, ErrorClass.WORKER_LOST, "cancelled")
        if task is not None:
            try:
                result = _result(attempt_id, task, worker, book)
            except Exception:
                log.exception("what %s used can't be understood", attempt_id)
        deliver(result)

    def ack(self, attempt_id: str, worker: Worker, *, booked: bool = True) -> None:
        """Tells the worker, a little later and together with others, that a result is recorded.

        Where it is not ``booked`` the worker keeps what was used, and drops the rest.
        """
        if self._lost_event(worker.uid).is_set():
            return
        self._acks.setdefault(worker.uid, (worker, {}))[1][attempt_id] = booked
        if worker.uid not in self._ack_tasks:
            task = asyncio.create_task(self._flush_acks(worker), name=f"ack {worker.pod}")
            self._ack_tasks[worker.uid] = task

    async def _flush_acks(self, worker: Worker) -> None:
        try:
            await asyncio.sleep(ACK_DELAY)
            await self._send_acks(worker)
        finally:
            # In the same step as finding nothing left: an ack after it makes a task of its own.
            self._ack_tasks.pop(worker.uid, None)

    async def _send_acks(self, worker: Worker) -> None:
        while (waiting := self._acks.get(worker.uid)) and waiting[1]:
            booked = any(waiting[1].values())
            batch = sorted(one for one, is_booked in waiting[1].items() if is_booked is booked)

            async def once(batch: list[str] = batch, booked: bool = booked) -> None:
                await self._client.ack(worker, batch, booked=booked)

            try:
                await self._persist(worker, once)
            except (RefusedError, WorkerGoneError) as error:
                log.info("results of %s were not acknowledged: %s", worker.pod, error)
            for attempt_id in batch:
                if waiting[1].get(attempt_id) is booked:  # else it was booked meanwhile
                    del waiting[1][attempt_id]
        self._acks.pop(worker.uid, None)

    async def close(self) -> None:
        """Stops following; the workers go on."""
        following = [followed.task for followed in self._following.values()]
        tasks = [*following, *self._cancelling.values(), *self._ack_tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _class_of(refused: RefusedError) -> ErrorClass:
    """What a refusal means for the attempt: it goes elsewhere, and that is no retry."""
    if refused.reason in ("WrongWorker", "Tombstoned"):
        return ErrorClass.WORKER_LOST
    # Unauthorized: the worker does not know the API server's newest keys, and is being replaced.
    if refused.reason in ("NoCapacity", "Draining", "RevisionMismatch", "Unauthorized"):
        return ErrorClass.NO_CAPACITY
    return ErrorClass.INTERNAL


def _lost(attempt_id: str, worker: Worker, error: ErrorClass, message: str) -> Result:
    calls = () if error is ErrorClass.NO_CAPACITY else None  # refused, so nobody was asked
    return Result(attempt_id, worker.uid, Consumption(), None, error, message, calls=calls)


def _result(attempt_id: str, task: Task, worker: Worker, book: Book) -> Result:
    report = task.report
    if (report.attempt_id, report.pod_uid) != (attempt_id, worker.uid):
        raise ValueError(f"the report is of {report.attempt_id} on {report.pod_uid}")
    charges = tuple(book(report))
    ended = Result(
        attempt_id,
        worker.uid,
        total(charges),
        calls=tuple(_calls(usage) for usage in report.usage),
        charges=charges,
        worked=float(report.duration_seconds),
        report=report,
    )
    if task.succeeded:
        return replace(ended, output=task.output())
    if task.input_required:
        return replace(ended, input_required=report.input_required)
    error = report.error
    return replace(
        ended,
        error=error.error_class if error else ErrorClass.INTERNAL,
        message=error.message if error else f"the worker says {task.state}",
    )


def _calls(usage: ModelUsage) -> ModelCalls:
    asked_to_wait = usage.retry_after_seconds
    return ModelCalls(
        usage.model_ref,
        int(usage.requests),
        int(usage.input_tokens) + int(usage.output_tokens),
        usage.answered,
        int(usage.failures),
        None if asked_to_wait is None else min(float(asked_to_wait), LONGEST_HOLD),
    )
