"""Where spans wait, each test on SQLite and on a real PostgreSQL."""

from dataclasses import replace

import pytest

from corral.ledger import store as of_store
from corral.ledger.query import Filter
from corral.ledger.shelf import Shelf
from corral.ledger.store import Store
from corral.ledger.table import SPANS
from corral.tracing.parcel import Parcel
from corral.tracing.span import Link, Span, SpanKind
from tests.unit.ledger.entries import NOW, entry

SPAN = Span(
    "0af7651916cd43dd8448eb211c80319c",
    "b7ad6b7169203331",
    None,
    "chat gpt ü",
    NOW,
    NOW + 1.25,
    SpanKind.CLIENT,
    {"count": 7, "cost": 0.000125, "flag": True, "list": ("a", "b")},
    "a\0b",
    (Link("0af7651916cd43dd8448eb211c80319c", "0000000000000001", {"why": "x"}),),
    {"service.name": "corral-worker"},
)


def parcel(key: str, spans: int = 1) -> Parcel:
    return Parcel(key, tuple(replace(SPAN, span_id=f"{n + 1:016x}") for n in range(spans)))


class Clock:
    """The time at which parcels are written."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(of_store, "time", made)
    return made


@pytest.fixture
def shelf(store: Store, clock: Clock) -> Shelf:
    return Shelf(store)


async def keys(shelf: Shelf) -> list[str]:
    return [one.key for one in await shelf.waiting(100, 1000)]


async def test_spans_come_back_as_they_were_put_in(shelf: Shelf, store: Store) -> None:
    await store.write([entry()], [Parcel("a", (SPAN, replace(SPAN, error=None)))])
    assert await shelf.waiting(10, 10) == [Parcel("a", (SPAN, replace(SPAN, error=None)))]
    assert len(await store.entries(Filter(), 10)) == 1


async def test_what_is_told_again_waits_once_and_is_what_it_was(shelf: Shelf, store: Store) -> None:
    await store.write([], [parcel("a")])
    await store.write([], [parcel("a", 5), parcel("b")])
    assert await shelf.waiting(10, 10) == [parcel("a"), parcel("b")]


async def test_what_was_taken_is_not_put_in_again(shelf: Shelf, store: Store) -> None:
    await store.write([], [parcel("a"), parcel("b")])
    await shelf.take(["a"])
    await store.write([], [parcel("a")])
    assert await keys(shelf) == ["b"]
    assert await shelf.known(["a", "b", "c"]) == {"a", "b"}


async def test_the_oldest_come_first_as_many_as_are_asked_for(
    shelf: Shelf, store: Store, clock: Clock
) -> None:
    for key in ("c", "b", "a"):
        await store.write([], [parcel(key, 3)])
        clock.now += 1
    assert [one.key for one in await shelf.waiting(2, 100)] == ["c", "b"]
    assert [one.key for one in await shelf.waiting(9, 6)] == ["c", "b"]
    assert [one.key for one in await shelf.waiting(9, 1)] == ["c"]
    assert await shelf.count() == 9


async def test_what_is_too_old_is_given_up(shelf: Shelf, store: Store, clock: Clock) -> None:
    await store.write([], [parcel("old", 3), parcel("gone", 4)])
    await shelf.take(["gone"])
    clock.now += 100
    await store.write([], [parcel("new")])
    assert await shelf.drop(NOW + 50, 100) == 3
    assert await keys(shelf) == ["new"]
    assert await shelf.drop(NOW + 50, 100) == 0
    await store.write([], [parcel("old")])
    assert await keys(shelf) == ["new"]


async def test_of_too_many_the_oldest_are_given_up(
    shelf: Shelf, store: Store, clock: Clock
) -> None:
    for number in range(10):
        await store.write([], [parcel(str(number), 2)])
        clock.now += 1
    assert await shelf.drop(0, 4) == 12
    assert await keys(shelf) == ["6", "7", "8", "9"]


async def test_keys_are_forgotten_when_nobody_tells_of_them_any_more(
    shelf: Shelf, store: Store, clock: Clock
) -> None:
    await store.write([], [parcel("a")])
    clock.now += 100
    await store.write([], [parcel("b")])
    assert await shelf.forget(NOW + 50) == 1
    assert await shelf.known(["a", "b"]) == {"b"}


async def test_many_keys_are_asked_for(shelf: Shelf, store: Store) -> None:
    await store.write([], [parcel(f"k{number}") for number in range(2500)])
    assert len(await shelf.known([f"k{number}" for number in range(3000)])) == 2500


async def test_what_a_newer_version_wrote_is_left_out_and_does_not_block_the_rest(
    shelf: Shelf, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await store.write([], [parcel("a"), parcel("b")])
    strange = SPANS.update().where(SPANS.c.key == "a").values(payload='{"v": 2}')
    await store.change(lambda connection: connection.execute(strange).rowcount)
    assert await shelf.waiting(10, 10) == [Parcel("a", ()), parcel("b")]
    assert "the spans of a can't be read" in caplog.text


async def test_rows_and_spans_are_written_together_or_not_at_all(
    shelf: Shelf, store: Store
) -> None:
    strange = replace(SPAN, attributes={"no JSON": object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        await store.write([entry()], [parcel("a"), Parcel("b", (strange,))])
    assert await keys(shelf) == []
    assert await store.entries(Filter(), 10) == []
