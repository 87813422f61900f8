"""Exporting: nothing is lost or sent for nothing, whoever is away, refuses or is ended."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from corral.ledger import outbox
from corral.ledger.errors import LedgerError
from corral.ledger.outbox import Outbox
from corral.ledger.writer import Ledger
from corral.telemetry import metrics
from corral.tracing.errors import CollectorAwayError, SpansRefusedError
from corral.tracing.parcel import Parcel
from corral.tracing.span import Span
from tests.unit.ledger.test_shelf import parcel
from tests.unit.ledger.test_writer import Database, until


class Shelf:
    """Parcels in memory; can be away."""

    def __init__(self, *parcels: Parcel) -> None:
        self.parcels = {one.key: one for one in parcels}
        self.away = False
        self.dropping = 0
        self.forgotten = 0

    async def known(self, keys: Collection[str]) -> set[str]:
        self._check()
        return set(keys) & self.parcels.keys()

    async def waiting(self, parcels: int, spans: int) -> list[Parcel]:
        self._check()
        return [*self.parcels.values()][:parcels]

    async def take(self, keys: Collection[str]) -> None:
        self._check()
        for key in keys:
            del self.parcels[key]

    async def count(self) -> int:
        return sum(len(one.spans) for one in self.parcels.values())

    async def drop(self, before: float, parcels: int) -> int:
        self._check()
        return self.dropping

    async def forget(self, before: float) -> int:
        self.forgotten += 1
        return 0

    def _check(self) -> None:
        if self.away:
            raise LedgerError("locked")


class Collector:
    """Takes spans; can be away, and refuses those of some names."""

    def __init__(self) -> None:
        self.batches: list[list[Span]] = []
        self.away = False
        self.refused: set[str] = set()
        self.rejects = 0
        self.broken = False
        self.tries = 0
        self.slowly: asyncio.Event | None = None

    async def export(self, spans: Sequence[Span]) -> int:
        self.tries += 1
        if self.broken:
            raise ZeroDivisionError
        if self.away:
            raise CollectorAwayError("it does not answer")
        if any(one.name in self.refused for one in spans):
            raise SpansRefusedError("it answers 400")
        self.batches.append(list(spans))
        if self.slowly is not None:
            await self.slowly.wait()
        return self.rejects


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LINGER", 0.01)
    monkeypatch.setattr(outbox, "TEND_PERIOD", 0.02)
    monkeypatch.setattr(outbox, "LOOK_AGAIN", 0.05)
    monkeypatch.setattr(outbox, "FORGET_EVERY", 3)


@asynccontextmanager
async def exporting(shelf: Shelf, collector: Collector) -> AsyncIterator[Outbox]:
    made = Outbox(shelf, collector.export)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def counted(counter: Callable[[], float]) -> Callable[[], float]:
    before = counter()
    return lambda: counter() - before


def total(counter: object) -> Callable[[], float]:
    return counted(lambda: counter._value.get())  # type: ignore[attr-defined]


async def test_what_waits_is_sent_in_one_batch_and_taken_off() -> None:
    shelf, collector = Shelf(parcel("a", 2), parcel("b")), Collector()
    exported = total(metrics.SPANS_EXPORTED)
    async with exporting(shelf, collector):
        await until(lambda: not shelf.parcels)
    assert [len(batch) for batch in collector.batches] == [3]
    assert exported() == 3


async def test_what_comes_later_is_sent_when_it_is_told_of() -> None:
    shelf, collector = Shelf(), Collector()
    async with exporting(shelf, collector) as made:
        await asyncio.sleep(0.02)
        shelf.parcels["a"] = parcel("a")
        made.wake()
        await until(lambda: not shelf.parcels)


async def test_spans_wait_while_the_collector_is_away_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "corral")
    shelf, collector = Shelf(parcel("a")), Collector()
    collector.away = True
    async with exporting(shelf, collector):
        await until(lambda: collector.tries >= 2)
        assert shelf.parcels
        collector.away = False
        await until(lambda: not shelf.parcels)
    assert caplog.text.count("spans wait, nothing else does") == 1
    assert "spans are exported again" in caplog.text


async def test_what_is_refused_is_left_out_and_the_others_are_sent() -> None:
    bad = Parcel("bad", tuple(replace(one, name="bad") for one in parcel("x").spans))
    shelf = Shelf(parcel("a"), parcel("b"), bad, parcel("c"))
    collector = Collector()
    collector.refused = {"bad"}
    failed, exported = total(metrics.SPANS_FAILED), total(metrics.SPANS_EXPORTED)
    async with exporting(shelf, collector):
        await until(lambda: not shelf.parcels)
    assert sum(len(batch) for batch in collector.batches) == 3
    assert (failed(), exported()) == (1, 3)


async def test_spans_that_a_collector_took_only_in_part_are_counted() -> None:
    shelf, collector = Shelf(parcel("a", 5)), Collector()
    collector.rejects = 2
    failed, exported = total(metrics.SPANS_FAILED), total(metrics.SPANS_EXPORTED)
    async with exporting(shelf, collector):
        await until(lambda: not shelf.parcels)
    assert (failed(), exported()) == (2, 3)


async def test_a_batch_that_was_sent_is_not_sent_again_while_the_database_is_away() -> None:
    shelf, collector = Shelf(parcel("a")), Collector()
    collector.slowly = asyncio.Event()
    async with exporting(shelf, collector):
        await until(lambda: collector.batches)
        shelf.away = True
        collector.slowly.set()
        await asyncio.sleep(0.1)
        shelf.away = False
        await until(lambda: not shelf.parcels)
    assert len(collector.batches) == 1


async def test_a_process_that_is_told_to_end_takes_off_what_is_on_its_way() -> None:
    shelf, collector = Shelf(parcel("a")), Collector()
    collector.slowly = asyncio.Event()
    async with exporting(shelf, collector):
        await until(lambda: collector.batches)
        asyncio.get_running_loop().call_later(0.05, collector.slowly.set)
    assert shelf.parcels == {}


async def test_an_unexpected_error_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    shelf, collector = Shelf(parcel("a")), Collector()
    collector.broken = True
    async with exporting(shelf, collector):
        await until(lambda: collector.tries)
        collector.broken = False
        await until(lambda: not shelf.parcels)
    assert "ZeroDivisionError" in caplog.text


async def test_what_is_dropped_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    shelf, collector = Shelf(), Collector()
    dropped = total(metrics.SPANS_DROPPED)
    shelf.dropping = 7
    async with exporting(shelf, collector):
        await until(lambda: dropped() >= 7)
        shelf.dropping = 0
        await until(lambda: shelf.forgotten)
    assert "7 spans waited too long" in caplog.text


async def test_how_many_wait_is_a_metric() -> None:
    shelf, collector = Shelf(parcel("a", 4)), Collector()
    collector.away = True
    async with exporting(shelf, collector):
        await until(lambda: metrics.SPANS_WAITING._value.get() == 4)


async def test_spans_without_a_row_of_the_ledger_are_written_and_told_too() -> None:
    database, shelf, collector = Database(), Shelf(), Collector()
    ledger = Ledger(database, outbox=Outbox(shelf, collector.export))
    told: list[str] = []
    tasks = [asyncio.create_task(ledger.run()), asyncio.create_task(ledger.export_for_ever())]
    ledger.book("run", [], lambda: told.append("written"), parcels=[parcel("run")])
    assert told == []
    await until(lambda: told)
    assert database.parcels == [parcel("run")]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
