"""Exports the spans that wait, in batches, the oldest first.

They were written with the ledger's rows, so whoever leads next goes on where this process ends. A
batch is taken off the shelf once the collector has it: who is killed in between leaves it to be
sent once more, with the same ids.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from time import time
from typing import Protocol, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_not_exception_type,
    wait_exponential_jitter,
)

from corral.ledger.errors import LedgerError
from corral.telemetry import metrics
from corral.tracing.errors import CollectorAwayError, SpansRefusedError
from corral.tracing.parcel import Parcel
from corral.tracing.span import Span

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH = 512
"""Parcels that are sent at once: one or two an attempt."""
BATCH_SPANS = 2048
LINGER = 1.0
"""Seconds for which spans wait for others to be sent with."""
LOOK_AGAIN = 30.0
"""Seconds after which it is looked for spans that nobody told of."""
MAX_WAITING = 100_000
"""Parcels that wait for a collector that is away, about 1 KiB each; beyond that the oldest go."""
MAX_AGE = 24 * 3600.0
KEPT = 7 * 24 * 3600.0
"""Seconds for which keys are kept, so that what is told again is not exported again."""
TEND_PERIOD = 15.0
FORGET_EVERY = 240
"""Times that it is tended to until old keys are deleted: once an hour."""
LAST_WORDS = 3.0
"""Seconds that a process which ends gives to the batch under way."""

Export = Callable[[Sequence[Span]], Awaitable[int]]
"""Sends spans; how many of them were not taken. Raises ``CollectorAwayError`` and
``SpansRefusedError``."""


class Waiting(Protocol):
    """A ``Shelf``; all raise ``LedgerError``."""

    async def known(self, keys: Collection[str]) -> set[str]:
        """Those that are there, or were not long ago."""

    async def waiting(self, parcels: int, spans: int) -> list[Parcel]:
        """The oldest."""

    async def take(self, keys: Collection[str]) -> None:
        """What need not be exported any more."""

    async def count(self) -> int:
        """How many spans wait."""

    async def drop(self, before: float, parcels: int) -> int:
        """Gives up what is too old, or too much; how many spans that were."""

    async def forget(self, before: float) -> int:
        """Deletes old keys; how many."""


class Outbox:
    """Sends what is on a shelf."""

    def __init__(self, shelf: Waiting, export: Export) -> None:
        self._shelf = shelf
        self._export = export
        self._some = asyncio.Event()
        self._away = False

    def wake(self) -> None:
        """There are spans to be exported."""
        self._some.set()

    async def known(self, keys: Collection[str]) -> set[str]:
        """Those of whose spans the shelf was told; raises ``LedgerError``."""
        return await self._shelf.known(keys)

    async def run(self) -> None:
        """Exports for ever; never raises but when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tend())
            while True:
                self._some.clear()
                batch: list[Parcel] = await self._patiently(
                    lambda: self._shelf.waiting(BATCH, BATCH_SPANS)
                )
                if batch:
                    await self._see_through(batch)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN):
                            await self._some.wait()
                if len(batch) < BATCH:
                    await asyncio.sleep(LINGER)

    async def _see_through(self, batch: Sequence[Parcel]) -> None:
        """Sends and takes off the shelf, even if this process is about to end."""
        sending = asyncio.create_task(self._send(batch))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending], timeout=LAST_WORDS)
            sending.cancel()
            raise

    async def _send(self, batch: Sequence[Parcel]) -> None:
        spans = [span for parcel in batch for span in parcel.spans]
        try:
            rejected = await self._patiently(lambda: self._export(spans)) if spans else 0
        except SpansRefusedError as refused:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._send(batch[:middle])
                await self._send(batch[middle:])
                return
            log.error("the spans of %s are not exported: the collector: %s", batch[0].key, refused)
            rejected = len(spans)
        await self._patiently(lambda: self._shelf.take([parcel.key for parcel in batch]))
        metrics.SPANS_EXPORTED.inc(len(spans) - rejected)
        metrics.SPANS_FAILED.inc(rejected)

    async def _tend(self) -> None:
        """Keeps the shelf from growing without end."""
        times = 0
        while True:
            try:
                now = time()
                if dropped := await self._shelf.drop(now - MAX_AGE, MAX_WAITING):
                    log.error("%d spans waited too long for a collector: they are lost", dropped)
                    metrics.SPANS_DROPPED.inc(dropped)
                if times % FORGET_EVERY == 0:
                    await self._shelf.forget(now - KEPT)
                metrics.SPANS_WAITING.set(await self._shelf.count())
                times += 1
            except LedgerError as error:
                log.info("spans that wait can't be looked after: %s", error)
            except Exception:
                log.exception("spans that wait can't be looked after")
            await asyncio.sleep(TEND_PERIOD)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does it as soon as that is possible; raises ``SpansRefusedError``."""
        async for attempt in AsyncRetrying(
            wait=wait_exponential_jitter(initial=0.5, max=30, jitter=0.5),
            retry=retry_if_not_exception_type((SpansRefusedError, asyncio.CancelledError)),
            before_sleep=self._failed,
            reraise=True,
        ):
            with attempt:
                done = await work()
        if self._away:
            log.info("spans are exported again")
        self._away = False
        return done

    def _failed(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, CollectorAwayError | LedgerError):
            log.error("spans can't be exported", exc_info=error)
        elif not self._away:
            who = "the collector" if isinstance(error, CollectorAwayError) else "the ledger"
            log.warning("spans wait, nothing else does: %s: %s", who, error)
        self._away = True
