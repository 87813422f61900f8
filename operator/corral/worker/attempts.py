"""The table of attempts: each is executed at most once here, and its result kept until acked.

Nothing in `AttemptTable.start` awaits between looking an attempt up and inserting it, so any number
of concurrent, repeated and hung-up sends of one attempt are one execution. What happens to a
second send, by what is known of the attempt:

==========================  ==========================================
known as                    a send
==========================  ==========================================
nothing                     starts it, or is refused: see `start`
SUBMITTED, WORKING          attaches
finished, not acked         gets the result again
acked, or cancelled early   is refused (Tombstoned)
==========================  ==========================================

All methods belong to one event loop.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic, time

from corral.api.attempt import AttemptError, InventoryEntry
from corral.api.errors import ErrorClass
from corral.worker.attempt import Attempt, Job, RefusedError, State
from corral.worker.outcome import AttemptOutcome, UsageMeter
from corral.worker.schema import compact_json

MAX_UNACKED_BYTES = 64 * 2**20
_ENTRY_BYTES = 2048
"""What a finished attempt takes beside its output, roughly."""
_RECEIPT_BYTES = 1024
"""What is left of one whose output is not wanted any more."""
_CALL_BYTES = 2048
"""What a call takes that the report tells of."""
MAX_TOMBSTONES = 100_000
TOMBSTONE_SECONDS = 24 * 3600.0


class AttemptTable:
    """Runs up to ``concurrency`` attempts, and holds as many more that wait their turn.

    Args:
        obstacle: why nothing may be started now (a key is missing), None if nothing is in the way.
        on_end: told of every attempt that ended.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        clock: Callable[[], float] = monotonic,
        obstacle: Callable[[], str | None] = lambda: None,
        on_end: Callable[[Attempt], None] = lambda attempt: None,
        max_unacked_bytes: int = MAX_UNACKED_BYTES,
        max_tombstones: int = MAX_TOMBSTONES,
    ) -> None:
        self._concurrency = concurrency
        self._clock = clock
        self._obstacle = obstacle
        self._on_end = on_end
        self._max_unacked_bytes = max_unacked_bytes
        self._max_tombstones = max_tombstones
        self._attempts: dict[str, Attempt] = {}
        self._waiting: deque[Attempt] = deque()
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        self.running = 0
        self.unacked_bytes = 0
        self.draining = False

    def start(
        self,
        attempt_id: str,
        job: Job,
        *,
        meter: UsageMeter | None = None,
        context_id: str = "",
        forget_after: float | None = None,
        wrong_revision: str | None = None,
    ) -> Attempt:
        """Starts an attempt, or attaches to it. Does not await, so it is atomic.

        Args:
            wrong_revision: a message, if the caller means another revision of the Agent.

        Raises:
            RefusedError: Tombstoned, Draining, NoCapacity, RevisionMismatch, checked in this order.
        """
        self._drop_old_tombstones()
        if attempt_id in self._tombstones:
            raise RefusedError("Tombstoned", f"Attempt {attempt_id} has ended here.")
        known = self._attempts.get(attempt_id)
        if known is not None:
            return known
        if self.draining:
            raise RefusedError("Draining", "The worker is draining.")
        full = self._full()
        if full:
            raise RefusedError("NoCapacity", full)
        if wrong_revision:
            raise RefusedError("RevisionMismatch", wrong_revision)
        attempt = Attempt(attempt_id, job, meter or UsageMeter(), context_id, forget_after)
        self._attempts[attempt_id] = attempt
        self._waiting.append(attempt)
        self._start_waiting()
        return attempt

    def find(self, attempt_id: str) -> Attempt | None:
        """The attempt, until it is acked."""
        return self._attempts.get(attempt_id)

    def attempts(self) -> list[Attempt]:
        """All that are held, in the order in which they came."""
        return list(self._attempts.values())

    def cancel(self, attempt_id: str) -> Attempt | None:
        """Cancels an attempt; success if it has ended.

        One that is not known can't be started here any more (None is returned): its cancellation
        may have overtaken it.
        """
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            self._bury(attempt_id)
        elif not attempt.finished:
            attempt.cancelled = True
            self._stop(attempt)
        return attempt

    def ack(self, attempt_ids: Iterable[str], *, booked: bool = True) -> None:
        """Drops results that are recorded elsewhere. Those that run or are unknown are skipped.

        What was used is kept until it is booked too.
        """
        for attempt_id in attempt_ids:
            attempt = self._attempts.get(attempt_id)
            if attempt is None or attempt.outcome is None:
                continue
            self.unacked_bytes -= attempt.size
            if booked:
                del self._attempts[attempt_id]
                self._bury(attempt_id)
            else:
                outcome = attempt.outcome
                attempt.outcome = AttemptOutcome("", usage=outcome.usage, error=outcome.error)
                attempt.size = _RECEIPT_BYTES + attempt.meter.spans.count * _CALL_BYTES
                self.unacked_bytes += attempt.size

    def drain(self) -> None:
        """Refuses starts from now on; what it holds goes on."""
        self.draining = True

    def stop_all(self, reason: AttemptError) -> None:
        """Fails everything that has not ended, with this reason."""
        for attempt in self.attempts():
            if not attempt.finished:
                attempt.stop_reason = reason
                self._stop(attempt)

    @property
    def free(self) -> int:
        """How many attempts would begin to work at once if they were sent now."""
        if self.draining or self._full():
            return 0
        return max(0, self._concurrency - self.running - len(self._waiting))

    @property
    def waiting(self) -> int:
        """How many are SUBMITTED."""
        return len(self._waiting)

    @property
    def unacked(self) -> int:
        """How many have ended and wait for their ack; those of clients that don't ack are not."""
        return sum(1 for a in self._attempts.values() if a.finished and a.forget_after is None)

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost if the process ended now."""
        return self.running == 0 and not self._waiting and self.unacked == 0

    def inventory(self) -> list[InventoryEntry]:
        """Everything that is held."""
        now = self._clock()
        return [
            InventoryEntry(
                attempt_id=attempt.attempt_id,
                state=attempt.state.value,
                elapsed_seconds=round(attempt.elapsed(now), 3),
            )
            for attempt in self._attempts.values()
        ]

    def _full(self) -> str | None:
        obstacle = self._obstacle()
        if obstacle:
            return obstacle
        if self.running + len(self._waiting) >= 2 * self._concurrency:
            return f"The worker has {self.running} attempts at work and {self.waiting} waiting."
        if self.unacked_bytes > self._max_unacked_bytes:
            return f"The worker holds {self.unacked_bytes} bytes of results that are not acked."
        return None

    def _start_waiting(self) -> None:
        while self._waiting and self.running < self._concurrency:
            attempt = self._waiting.popleft()
            attempt.state = State.WORKING
            attempt.began, attempt.started_at = time(), self._clock()
            self.running += 1
            attempt.task = asyncio.ensure_future(attempt.job(attempt.meter))
            # Not a `finally` in the job: a task cancelled before its first step never runs one.
            attempt.task.add_done_callback(partial(self._ended, attempt))

    def _stop(self, attempt: Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()
        else:
            self._waiting.remove(attempt)
            self._finish(attempt, self._stopped(attempt))

    def _ended(self, attempt: Attempt, task: asyncio.Task[AttemptOutcome]) -> None:
        self.running -= 1
        if task.cancelled():
            outcome = self._stopped(attempt)
        elif task.exception() is not None:
            outcome = _broken(attempt, type(task.exception()).__name__)
        else:
            outcome = task.result()
        self._finish(attempt, outcome)
        self._start_waiting()

    def _stopped(self, attempt: Attempt) -> AttemptOutcome:
        if attempt.cancelled or attempt.stop_reason is not None:
            return AttemptOutcome(usage=attempt.meter.usage(), error=attempt.stop_reason)
        return _broken(attempt, "cancellation")

    def _finish(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        attempt.ended_at = self._clock()
        attempt.outcome = outcome
        if outcome.error is not None:
            attempt.state = State.FAILED
        elif attempt.cancelled and (attempt.task is None or attempt.task.cancelled()):
            attempt.state = State.CANCELED
        elif outcome.input_required is not None:
            attempt.state = State.INPUT_REQUIRED
        else:
            attempt.state = State.COMPLETED
        attempt.job = _spent  # it holds the input, which is not needed any more
        attempt.size = _ENTRY_BYTES + len(compact_json(outcome.output).encode(errors="replace"))
        if outcome.input_required is not None:
            attempt.size += len(outcome.input_required.conversation)
        attempt.size += attempt.meter.spans.count * _CALL_BYTES
        self.unacked_bytes += attempt.size
        attempt.ended.set()
        self._on_end(attempt)
        if attempt.forget_after is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(attempt.forget_after, self.ack, [attempt.attempt_id])

    def _bury(self, attempt_id: str) -> None:
        self._tombstones.pop(attempt_id, None)
        self._tombstones[attempt_id] = self._clock()
        while len(self._tombstones) > self._max_tombstones:
            self._tombstones.popitem(last=False)

    def _drop_old_tombstones(self) -> None:
        limit = self._clock() - TOMBSTONE_SECONDS
        while self._tombstones and next(iter(self._tombstones.values())) < limit:
            self._tombstones.popitem(last=False)


async def _spent(meter: UsageMeter) -> AttemptOutcome:
    raise AssertionError("an attempt is executed once")


def _broken(attempt: Attempt, what: str) -> AttemptOutcome:
    return AttemptOutcome(
        usage=attempt.meter.usage(),
        error=AttemptError(
            error_class=ErrorClass.INTERNAL,
            message=f"The worker failed with an unexpected {what}.",
        ),
    )
