"""The ledger's database, each test on SQLite and on a real PostgreSQL."""

import sqlite3
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text

from corral.ledger.errors import LedgerError, RowsRefusedError
from corral.ledger.query import Filter
from corral.ledger.shelf import Shelf
from corral.ledger.store import _MIGRATIONS, Store
from corral.ledger.table import LEDGER, METADATA, VERSION_TABLE
from corral.tracing.parcel import Parcel
from tests.unit.ledger.entries import NOW, entries, entry
from tests.unit.ledger.postgres import Postgres

ALL = Filter()


async def test_an_entry_comes_back_as_it_was_written(store: Store) -> None:
    written = entry(cost_usd=Decimal("0.1234567890123456789012345"), template="t", cron="c")
    await store.write([written])
    assert await store.entries(ALL, 10) == [written]


async def test_what_is_written_again_is_there_once_and_as_it_was(store: Store) -> None:
    await store.write(entries(3))
    await store.write([*entries(5, recorded_at=NOW + 60, cost_usd=Decimal(9)), *entries(5)])
    found = await store.entries(ALL, 10)
    assert len(found) == 5
    assert [one for one in found if one.recorded_at == NOW] == entries(3)


async def test_an_attempt_that_used_two_models_has_two_rows(store: Store) -> None:
    both = [entry(), entry(model_ref="cheap"), entry(model_ref="cheap", simulated=True)]
    await store.write(both)
    assert len(await store.entries(ALL, 10)) == 3


async def test_sums_are_exact_to_the_last_digit(store: Store) -> None:
    await store.write(entries(1000, cost_usd=Decimal("0.000000000000000001")))
    await store.write([entry(attempt_id="run.big.0.1.1", cost_usd=Decimal("12345678.1"))])
    (total,) = await store.sums([], ALL)
    assert total.cost_usd == Decimal("12345678.100000000000001000")
    assert (total.rows, total.requests, total.input_tokens) == (1001, 2002, 100_100)


async def test_the_unpriced_is_counted_and_is_not_zero(store: Store) -> None:
    unpriced = {"cost_usd": None, "price_source": None, "unpriced_requests": 2}
    await store.write(entries(3, model="nobody-knows", **unpriced))
    await store.write([entry(attempt_id="run.free.0.1.1", cost_usd=Decimal(0))])
    found = {one.keys[0]: one for one in await store.sums(["model"], ALL)}
    assert found["nobody-knows"].cost_usd is None
    assert found["nobody-knows"].unpriced_requests == 6
    assert found["gpt-5-mini"].cost_usd == 0


async def test_sums_are_by_several_keys_and_the_dearest_comes_first(store: Store) -> None:
    await store.write(entries(2, cost_usd=Decimal(1), simulated=True))
    await store.write([entry(attempt_id="run.a.0.1.1", agent="critic", cost_usd=Decimal(3))])
    await store.write([entry(attempt_id="run.b.0.1.1", agent=None, cost_usd=None)])
    found = await store.sums(["namespace", "agent"], ALL)
    assert [one.keys for one in found] == [("team", "critic"), ("team", "writer"), ("team", None)]
    assert [one.simulated_requests for one in found] == [0, 4, 0]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter(since=NOW), 3),
        (Filter(since=NOW + 0.01), 1),
        (Filter(until=NOW), 0),
        (Filter(until=NOW + 10), 2),
        (Filter(equal={"namespace": "team", "workflow": "other"}), 1),
        (Filter(equal={"namespace": "nobody"}), 0),
    ],
)
async def test_rows_are_chosen_by_time_and_by_what_they_are_of(
    store: Store, wanted: Filter, count: int
) -> None:
    await store.write([*entries(2), entry(attempt_id="r.s.0.1.1", recorded_at=NOW + 10,
                                          workflow="other")])  # fmt: skip
    assert sum(one.rows for one in await store.sums([], wanted)) == count
    assert len(await store.entries(wanted, 10)) == count


async def test_pages_have_every_row_once(store: Store) -> None:
    await store.write([*entries(7), *entries(4, model_ref="cheap")])
    seen, after = [], None
    while page := await store.entries(ALL, 3, after):
        seen += page
        last = page[-1]
        after = (last.recorded_at, last.attempt_id, last.model_ref, last.simulated)
    assert len(seen) == len(set(seen)) == 11


async def test_what_nobody_knows_of_a_run_is_taken_from_its_other_rows(store: Store) -> None:
    await store.write([entry(template="t", parent="p")])
    await store.write([entry(attempt_id="run.late.0.1.1", workflow=None)])
    await store.write([entry(attempt_id="x.late.0.1.1", run_id="x", workflow=None)])
    found = {one.attempt_id: one for one in await store.entries(ALL, 10)}
    late = found["run.late.0.1.1"]
    assert (late.workflow, late.template, late.parent) == ("report", "t", "p")
    assert found["x.late.0.1.1"].workflow is None


async def test_old_rows_are_deleted(store: Store) -> None:
    await store.write([*entries(2), entry(attempt_id="r.s.0.1.1", recorded_at=NOW + 10)])
    assert await store.prune(NOW + 5) == 2
    assert [one.attempt_id for one in await store.entries(ALL, 10)] == ["r.s.0.1.1"]


async def test_a_row_that_no_database_takes_is_told_apart_from_a_database_that_is_away(
    store: Store,
) -> None:
    with pytest.raises(RowsRefusedError):
        await store.write([entry(step=None)])
    with pytest.raises(RowsRefusedError):
        await store.write([entry(requests=2**70)])


async def test_migrations_come_to_what_the_code_writes(store: Store) -> None:
    with store._engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []


async def test_migrating_again_keeps_the_rows(store: Store, url: str) -> None:
    await store.write([entry()])
    again = Store(url)
    await again.migrate()
    assert await again.entries(ALL, 10) == [entry()]
    await again.close()


async def test_a_database_of_the_first_version_keeps_its_rows_and_takes_spans(url: str) -> None:
    store = Store(url)
    with store._engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(LEDGER.insert(), asdict(entry()))
    await store.migrate()
    await store.write([], [Parcel("a", ())])
    assert await store.entries(ALL, 10) == [entry()]
    assert await Shelf(store).known(["a"]) == {"a"}
    await store.close()


async def test_the_table_of_a_newer_version_is_used_as_it_is(store: Store) -> None:
    with store._engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    await store.migrate()
    await store.write([entry()])
    assert len(await store.entries(ALL, 10)) == 1


async def test_a_ledger_that_is_not_there_yet_is_told_of(url: str) -> None:
    store = Store(url)
    with pytest.raises(LedgerError, match="corral_ledger"):
        await store.sums([], ALL)
    await store.close()


async def test_a_server_that_is_started_again_is_used_again(postgres: Postgres) -> None:
    store = Store(postgres.url)
    await store.migrate()
    postgres.stop()
    try:
        with pytest.raises(LedgerError):
            await store.write([entry(attempt_id="restart.s.0.1.1")])
    finally:
        postgres.start()
    await store.write([entry(attempt_id="restart.s.0.1.1")])
    await store.close()


async def test_a_full_or_damaged_file_is_an_error_that_may_pass(tmp_path: Path) -> None:
    place = tmp_path / "ledger.db"
    place.write_bytes(b"this is no database" * 100)
    store = Store(f"sqlite:///{place}")
    with pytest.raises(LedgerError, match="file is not a database"):
        await store.migrate()
    await store.close()


async def test_a_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/ledger.db")
    await store.migrate()
    other = sqlite3.connect(tmp_path / "ledger.db")
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(LedgerError, match="locked"):
            await store.write([entry()])
    finally:
        other.rollback()
        other.close()
    await store.write([entry()])
    await store.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "no URL"),
        ("mysql://root:secret@db/x", "neither sqlite nor postgresql"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://u:secret@db:port/x", "no URL"),
    ],
)
def test_urls_that_are_none_are_refused_without_showing_them(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        Store(url)
    assert "secret" not in str(refused.value)


def test_an_url_is_shown_without_its_password() -> None:
    assert Store("postgresql://u:secret@db/x").url == "postgresql+psycopg://u:***@db/x"


async def test_errors_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("postgresql://u:secret@127.0.0.1:1/x")
    with pytest.raises(LedgerError) as failed:
        await store.migrate()
    assert "secret" not in str(failed.value)
    assert "connection" in str(failed.value)
    await store.close()
