"""What waits to be written: nothing is lost, nothing counts twice, and nobody waits for it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from time import time

import pytest

from corral.ledger import writer
from corral.ledger.errors import LedgerError, RowsRefusedError
from corral.ledger.query import Filter
from corral.ledger.rows import Entry
from corral.ledger.store import Store
from corral.ledger.writer import Ledger
from corral.tracing.parcel import Parcel
from tests.unit.ledger.entries import entry
from tests.unit.ledger.postgres import Postgres


class Database:
    """Remembers what was written; can be away, and refuses what it is told to."""

    def __init__(self) -> None:
        self.rows: list[Entry] = []
        self.parcels: list[Parcel] = []
        self.away = False
        self.refused: set[str] = set()
        self.broken = False
        self.calls = 0
        self.pruned: list[float] = []

    async def migrate(self) -> None:
        self._check()

    async def write(self, entries: Sequence[Entry], parcels: Sequence[Parcel]) -> None:
        self.calls += 1
        self._check()
        if self.broken:
            raise ZeroDivisionError
        if any(one.attempt_id in self.refused for one in entries):
            raise RowsRefusedError("value too long")
        self.rows += entries
        self.parcels += parcels

    async def prune(self, before: float) -> int:
        self.pruned.append(before)
        self._check()
        return 3

    def _check(self) -> None:
        if self.away:
            raise LedgerError("connection refused")

    @property
    def attempts(self) -> list[str]:
        return [one.attempt_id for one in self.rows]


class Desk:
    """A ledger that works, and what it told."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.ledger = Ledger(database, retention=100)
        self.written: list[str] = []
        self.delayed: list[str] = []

    def book(self, *attempts: str) -> None:
        for one in attempts:
            self.ledger.book(
                one,
                [entry(attempt_id=one)],
                lambda one=one: self.written.append(one),  # type: ignore[misc]
                lambda one=one: self.delayed.append(one),  # type: ignore[misc]
            )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LINGER", 0.01)


@asynccontextmanager
async def desk(database: Database | None = None) -> AsyncIterator[Desk]:
    made = Desk(database or Database())
    tasks = [
        asyncio.create_task(made.ledger.run()),
        asyncio.create_task(made.ledger.prune_for_ever()),
    ]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_comes_together_is_written_together_and_then_told() -> None:
    async with desk() as made:
        made.book("a.s.0.1.1", "b.s.0.1.1")
        assert made.written == []
        assert made.ledger.holds("a.s.0.1.1")
        await until(lambda: len(made.written) == 2)
        assert made.database.calls == 1
        assert not made.ledger.holds("a.s.0.1.1")
        assert made.delayed == []


async def test_more_than_a_batch_is_written_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "BATCH", 10)
    async with desk() as made:
        made.book(*(f"r.s.{number}.1.1" for number in range(35)))
        await until(lambda: len(made.written) == 35)
        assert made.database.calls == 4


async def test_while_it_is_away_rows_wait_and_outputs_need_not() -> None:
    async with desk() as made:
        made.book("a.s.0.1.1")
        await until(lambda: made.written)
        made.database.away = True
        made.book("b.s.0.1.1")
        await until(lambda: made.delayed == ["b.s.0.1.1"])
        made.book("c.s.0.1.1")
        assert made.delayed == ["b.s.0.1.1", "c.s.0.1.1"]
        assert made.written == ["a.s.0.1.1"]
        made.database.away = False
        await until(lambda: len(made.written) == 3)
        assert made.database.attempts == ["a.s.0.1.1", "b.s.0.1.1", "c.s.0.1.1"]


async def test_a_ledger_that_was_away_from_the_start_is_caught_up_with() -> None:
    database = Database()
    database.away = True
    async with desk(database) as made:
        made.book("a.s.0.1.1")
        await until(lambda: made.delayed)
        database.away = False
        await until(lambda: made.written == ["a.s.0.1.1"])


async def test_no_more_is_kept_than_fits_and_workers_keep_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "MAX_HELD", 2)
    database = Database()
    database.away = True
    async with desk(database) as made:
        made.book("a.s.0.1.1")
        await until(lambda: made.delayed)
        made.book("b.s.0.1.1", "c.s.0.1.1")
        assert made.ledger.full
        assert not made.ledger.holds("c.s.0.1.1")
        database.away = False
        await until(lambda: len(made.written) == 2)
        assert not made.ledger.full
        made.book("c.s.0.1.1")  # its worker tells of it again
        await until(lambda: "c.s.0.1.1" in made.written)


async def test_a_row_that_is_refused_does_not_keep_the_others_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database()
    database.refused = {"r.s.3.1.1"}
    async with desk(database) as made:
        made.book(*(f"r.s.{number}.1.1" for number in range(8)))
        await until(lambda: len(made.written) == 8)
    assert sorted(database.attempts) == [f"r.s.{n}.1.1" for n in range(8) if n != 3]
    assert "attempt r.s.3.1.1 is not in the ledger: value too long" in caplog.text


async def test_an_unexpected_error_is_told_of_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database()
    database.broken = True
    async with desk(database) as made:
        made.book("a.s.0.1.1")
        await until(lambda: "ZeroDivisionError" in caplog.text)
        database.broken = False
        await until(lambda: made.written)


async def test_without_a_ledger_everything_counts_as_written() -> None:
    told: list[str] = []
    ledger = Ledger(None)
    ledger.book("a", [entry()], lambda: told.append("written"))
    assert told == ["written"]
    with suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.gather(ledger.run(), ledger.prune_for_ever())
    await ledger.flush()


async def test_an_attempt_that_used_nothing_is_done_at_once() -> None:
    told: list[str] = []
    Ledger(Database()).book("a", [], lambda: told.append("written"))
    assert told == ["written"]


async def test_what_is_left_at_the_end_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk() as made:
        made.book("a.s.0.1.1")
        await until(lambda: made.written)
        monkeypatch.setattr(writer, "LINGER", 100)
        made.book("b.s.0.1.1")
        await made.ledger.flush()
        assert made.database.attempts == ["a.s.0.1.1", "b.s.0.1.1"]


async def test_an_end_while_it_is_away_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with desk() as made:
        made.book("a.s.0.1.1")
        await until(lambda: made.written)
        made.database.away = True
        made.book("b.s.0.1.1")
        await made.ledger.flush()
        assert "1 attempts are not in the ledger yet" in caplog.text


async def test_old_rows_are_deleted_and_a_failure_of_that_waits(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(writer, "PRUNE_PERIOD", 0.01)
    async with desk() as made:
        await until(lambda: len(made.database.pruned) > 1)
        assert time() - 101 < made.database.pruned[0] < time() - 99
        made.database.away = True
        await until(lambda: "are not deleted" in caplog.text)
        made.database.away = False
        count = len(made.database.pruned)
        await until(lambda: len(made.database.pruned) > count)


async def test_a_server_that_crashes_in_the_middle_has_every_row_once(postgres: Postgres) -> None:
    store = Store(postgres.url)
    await store.migrate()
    ledger, written = Ledger(store), set[str]()
    task = asyncio.create_task(ledger.run())
    mine = [f"crash-{number}.s.0.1.1" for number in range(400)]
    try:
        for number, one in enumerate(mine):
            of_run = entry(attempt_id=one, run_id="crash")
            ledger.book(one, [of_run], lambda one=one: written.add(one))  # type: ignore[misc]
            if number == 150:
                await asyncio.to_thread(postgres.stop)
            if number == 300:
                await asyncio.to_thread(postgres.start)
            await asyncio.sleep(0.002)
        await until(lambda: len(written) == len(mine))
        found = await store.entries(Filter(equal={"run_id": "crash"}), 1000)
        assert sorted(one.attempt_id for one in found) == sorted(mine)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()
