"""The ledger over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from corral.handlers.ledger import serve_ledger
from corral.ledger.store import Store
from tests.unit.handlers.serving import client_of
from tests.unit.ledger.entries import NOW, entries, entry


@asynccontextmanager
async def serving(store: Store | None) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(await serve_ledger(store, 0)) as client:
        yield client


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/ledger.db")
    await opened.migrate()
    yield opened
    await opened.close()


async def asked(client: aiohttp.ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    async with client.get(path) as answer:
        return answer.status, await answer.json()


async def test_sums_have_their_keys_and_the_total(store: Store) -> None:
    await store.write(entries(2, cost_usd=Decimal("0.10")))
    await store.write([entry(attempt_id="r.x.0.1.1", agent="critic", cost_usd=None)])
    async with serving(store) as client:
        status, found = await asked(client, "/costs?by=namespace&by=agent")
    assert status == 200
    assert [(row["namespace"], row["agent"], row["costUSD"]) for row in found["rows"]] == [
        ("team", "writer", "0.2"),
        ("team", "critic", None),
    ]
    assert found["total"]["costUSD"] == "0.2"
    assert found["total"]["requests"] == 6


async def test_rows_come_by_pages_and_each_once(store: Store) -> None:
    await store.write(entries(5))
    async with serving(store) as client:
        path, seen = "/entries?limit=2", []
        while True:
            status, page = await asked(client, path)
            assert status == 200
            seen += [row["attemptID"] for row in page["entries"]]
            if page["next"] is None:
                break
            path = f"/entries?limit=2&after={page['next']}"
    assert seen == [f"run.write.{n}.1.1" for n in range(5)]


async def test_rows_are_chosen(store: Store) -> None:
    await store.write([*entries(2), entry(attempt_id="r.s.0.1.1", recorded_at=NOW + 10,
                                          workflow="other")])  # fmt: skip
    async with serving(store) as client:
        for query, count in (
            (f"since={NOW + 5}", 1),
            (f"until={NOW + 5}", 2),
            ("workflow=other", 1),
            ("workflow=report&agent=writer", 2),
            ("namespace=nobody", 0),
        ):
            _, found = await asked(client, f"/costs?{query}")
            assert found["total"]["rows"] == count, query
            assert len((await asked(client, f"/entries?{query}"))[1]["entries"]) == count, query


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/costs?by=cost_usd", "by: 'cost_usd' is none of namespace, agent"),
        ("/costs?since=yesterday", "since: 'yesterday' is no number"),
        ("/costs?until=1e99", "until: 1e99 is out of range"),
        ("/costs?until=nan", "until: nan is out of range"),
        ("/entries?limit=0", "limit: it is not between 1 and"),
        ("/entries?limit=99999999", "limit: it is not between 1 and"),
        ("/entries?after=xyz", "after: it is not the end of a page"),
        ("/entries?after=W10=", "after: it is not the end of a page"),
    ],
)
async def test_what_is_asked_wrongly_is_named(store: Store, path: str, why: str) -> None:
    async with serving(store) as client:
        for _ in range(7):  # and never taken for a failure of the database
            status, found = await asked(client, path)
            assert (status, found["message"][: len(why)]) == (400, why)


async def test_without_a_ledger_that_is_said() -> None:
    async with serving(None) as client:
        status, found = await asked(client, "/costs")
    assert status == 404
    assert "keeps no ledger" in found["message"]


async def test_a_ledger_that_is_away_is_not_asked_again_and_again(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/nowhere/ledger.db")
    async with serving(store) as client:
        told = [await asked(client, "/costs") for _ in range(7)]
    await store.close()
    assert {status for status, _ in told} == {503}
    assert "unable to open database file" in told[0][1]["message"]
    assert "a moment ago" in told[-1][1]["message"]


@pytest.mark.parametrize("path", ["/", "/metrics", "/artifacts/a/b/c", "/costs/x"])
async def test_there_is_nothing_else(store: Store, path: str) -> None:
    async with serving(store) as client, client.get(path) as answer:
        assert answer.status == 404


async def test_nothing_can_be_written(store: Store) -> None:
    async with serving(store) as client:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            async with client.request(method, "/entries") as answer:
                assert answer.status == 405
