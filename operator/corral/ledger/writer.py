"""Writes what was used, in batches, and says when that is done.

Nothing waits for it: a result is recorded in status first, and its worker keeps what it used until
the row is written. So whatever is killed, somebody can still tell; a row that is told of twice is
written once. While the database is away rows wait here, up to ``MAX_HELD`` attempts, and beyond
that on their workers alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from time import time
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, wait_exponential_jitter

from corral.ledger.errors import LedgerError, RowsRefusedError
from corral.ledger.outbox import Outbox
from corral.ledger.query import Filter, Sum, total
from corral.ledger.rows import Entry
from corral.plan.state import Consumption
from corral.telemetry import metrics
from corral.tracing.parcel import Parcel

log = logging.getLogger(__name__)

LINGER = 0.1
"""Seconds for which a row waits for others to be written with."""
BATCH = 500
"""Attempts that are written at once."""
MAX_HELD = 50_000
"""Attempts whose rows are kept in memory, at about 2 KiB each."""
LAST_WORDS = 3.0
"""Seconds that a process which ends takes to write what is left."""
PRUNE_PERIOD = 3600.0


class Rows(Protocol):
    """Where rows are kept."""

    async def migrate(self) -> None:
        """Makes it ready; raises ``LedgerError``."""

    async def write(self, entries: Sequence[Entry], parcels: Sequence[Parcel]) -> None:
        """Adds rows, and spans to be exported, that are not there; all or none.

        Raises:
            LedgerError: not now.
            RowsRefusedError: never.
        """

    async def sums(self, by: Sequence[str], wanted: Filter) -> list[Sum]:
        """Sums by columns; raises ``LedgerError``."""

    async def prune(self, before: float) -> int:
        """Deletes old rows; raises ``LedgerError``."""


@dataclass(frozen=True)
class _Held:
    entries: Sequence[Entry]
    parcels: Sequence[Parcel]
    written: Callable[[], None]
    delayed: Callable[[], None]


class Ledger:
    """What waits to be written.

    Args:
        rows: None where there is no ledger: then everything counts as written.
        retention: seconds for which rows are kept; None for ever.
        outbox: where spans wait to be exported; None where nothing is traced.
    """

    def __init__(
        self, rows: Rows | None, retention: float | None = None, outbox: Outbox | None = None
    ) -> None:
        self._rows = rows
        self._retention = retention
        self._outbox = outbox
        self._held: dict[str, _Held] = {}
        self._some = asyncio.Event()
        self._ready = asyncio.Event()
        self._down = False
        metrics.LEDGER_HELD.set_function(lambda: len(self._held))

    @property
    def kept(self) -> bool:
        """Whether there is a ledger."""
        return self._rows is not None

    def holds(self, attempt_id: str) -> bool:
        """Whether the attempt's rows wait to be written."""
        return attempt_id in self._held

    @property
    def full(self) -> bool:
        """Whether nothing more is taken for now."""
        return len(self._held) >= MAX_HELD

    def book(
        self,
        attempt_id: str,
        entries: Sequence[Entry],
        written: Callable[[], None],
        delayed: Callable[[], None] = lambda: None,
        parcels: Sequence[Parcel] = (),
    ) -> None:
        """Has an attempt's rows written, and its spans or a run's kept until they are exported.

        Args:
            attempt_id: or a run's id.
            written: told once they are, or where there is nothing to write.
            delayed: told if that takes longer, as the database is away.
        """
        if self._rows is None or not (entries or parcels):
            written()
            return
        if not self.full or attempt_id in self._held:
            self._held[attempt_id] = _Held(entries, parcels, written, delayed)
            self._some.set()
        if self._down:
            delayed()

    async def spent(self, namespace: str, agent: str, since: float) -> Consumption | None:
        """What an Agent used since then, as far as it is written; None where there is no ledger.

        Raises:
            LedgerError: it can't be asked.
        """
        if self._rows is None:
            return None
        await self._ready.wait()
        wanted = Filter(since=since, equal={"namespace": namespace, "agent": agent})
        sums = await self._rows.sums([], wanted)
        return total(sums).used

    async def run(self) -> None:
        """Writes for ever; never raises but when it is cancelled."""
        if self._rows is None:
            await asyncio.Event().wait()
            return
        await self._until_done(self._rows.migrate)
        self._ready.set()
        while True:
            await self._some.wait()
            await asyncio.sleep(LINGER)
            batch = dict(islice(self._held.items(), BATCH))
            await self._until_done(lambda batch=batch: self._write([*batch.values()]))  # type: ignore[misc]
            for attempt_id, held in batch.items():
                del self._held[attempt_id]
                held.written()
            if not self._held:
                self._some.clear()

    async def known(self, keys: Collection[str]) -> set[str]:
        """Those of whose spans the database has been told; waits until it is ready.

        Raises:
            LedgerError: it does not answer.
        """
        await self._ready.wait()
        return set() if self._outbox is None else await self._outbox.known(keys)

    async def export_for_ever(self) -> None:
        """Exports the spans that wait."""
        if self._outbox is None:
            await asyncio.Event().wait()
            return
        await self._ready.wait()
        await self._outbox.run()

    async def prune_for_ever(self) -> None:
        """Deletes what is older than it should be, from time to time."""
        if self._rows is None or self._retention is None:
            await asyncio.Event().wait()
            return
        await self._ready.wait()
        while True:
            try:
                if gone := await self._rows.prune(time() - self._retention):
                    log.info("%d rows of the ledger were older than they are kept", gone)
            except LedgerError as error:
                log.warning("old rows of the ledger are not deleted: %s", error)
            await asyncio.sleep(PRUNE_PERIOD)

    async def flush(self) -> None:
        """Tries to write what is left, once: workers tell the next leader of what is not."""
        if self._rows is None or not self._held or not self._ready.is_set():
            return
        try:
            async with asyncio.timeout(LAST_WORDS):
                await self._write([*self._held.values()])
            self._held.clear()
        except (LedgerError, TimeoutError) as error:
            log.warning("%d attempts are not in the ledger yet: %s", len(self._held), error)

    async def _write(self, batch: Sequence[_Held]) -> None:
        """Writes rows; those that are refused are left out, and told of."""
        assert self._rows is not None
        entries = [entry for held in batch for entry in held.entries]
        parcels = [parcel for held in batch for parcel in held.parcels]
        try:
            await self._rows.write(entries, parcels)
        except RowsRefusedError as refused:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            what = f"attempt {entries[0].attempt_id} is" if entries else "spans are"
            log.error("%s not in the ledger: %s", what, refused)
            metrics.LEDGER_REFUSED.inc(len(entries))
            return
        metrics.LEDGER_ROWS.inc(len(entries))
        if parcels and self._outbox is not None:
            self._outbox.wake()

    async def _until_done(self, work: Callable[[], Awaitable[None]]) -> None:
        async for attempt in AsyncRetrying(
            wait=wait_exponential_jitter(initial=0.2, max=5, jitter=0.2), before_sleep=self._failed
        ):
            with attempt:
                await work()
        if self._down:
            log.info("the ledger is there again; %d attempts wait", len(self._held))
        self._down = False
        metrics.LEDGER_UP.set(1)

    def _failed(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, LedgerError):
            log.error("rows of the ledger can't be written", exc_info=error)
        elif not self._down:
            log.warning("the ledger is away; work goes on, its rows wait: %s", error)
        if not self._down:
            self._down = True
            metrics.LEDGER_UP.set(0)
            for held in self._held.values():
                held.delayed()
