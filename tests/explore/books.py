"""The ledger's database, in memory: shared by all operators, and reached through the gate."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from corral.ledger.errors import LedgerError
from corral.ledger.query import Filter, Sum, total
from corral.ledger.rows import Entry
from corral.tracing.parcel import Parcel
from tests.explore.gate import Caller, Gate
from tests.explore.plans import Call


@dataclass
class Books:
    """What is written, by key: what is written again is there once."""

    entries: dict[tuple[str, str, bool], Entry] = field(default_factory=dict)
    parcels: dict[str, Parcel] = field(default_factory=dict)
    """Spans that wait; nobody exports them."""


# No fault of the API server happens to it: only those of a way that breaks, and of processes.
_WRITE = Call("WRITE", "ledger", to_worker=True)


class Rows:
    """How one operator process reaches it."""

    def __init__(self, process: Caller, gate: Gate, books: Books) -> None:
        self._process = process
        self._gate = gate
        self._books = books

    async def migrate(self) -> None: ...

    async def write(self, entries: Sequence[Entry], parcels: Sequence[Parcel]) -> None:
        def effect() -> None:
            for entry in entries:
                key = (entry.attempt_id, entry.model_ref, entry.simulated)
                self._books.entries.setdefault(key, entry)
            for parcel in parcels:
                self._books.parcels.setdefault(parcel.key, parcel)

        await self._gate.call(self._process, _WRITE, effect, LedgerError("connection reset"))

    async def sums(self, by: Sequence[str], wanted: Filter) -> list[Sum]:
        assert not by, "nobody asks that"

        def effect() -> list[Sum]:
            since = wanted.since or 0
            rows = [row for row in self._books.entries.values() if row.recorded_at >= since]
            for name, value in wanted.equal.items():
                rows = [row for row in rows if getattr(row, name) == value]
            return [total([_sum(row) for row in rows])]

        lost = LedgerError("connection reset")
        return await self._gate.uncounted(self._process, effect, lost)

    async def known(self, keys: Collection[str]) -> set[str]:
        lost = LedgerError("connection reset")
        return await self._gate.uncounted(
            self._process, lambda: set(keys) & self._books.parcels.keys(), lost
        )

    async def prune(self, before: float) -> int:
        raise AssertionError("nothing is as old as that")


class Outbox:
    """Where spans stay."""

    def __init__(self, rows: Rows) -> None:
        self.known = rows.known

    def wake(self) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()


def _sum(row: Entry) -> Sum:
    return Sum(
        keys=(),
        rows=1,
        requests=row.requests,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_input_tokens=row.cached_input_tokens,
        unpriced_requests=row.unpriced_requests,
        simulated_requests=row.requests if row.simulated else 0,
        cost_usd=row.cost_usd,
    )
