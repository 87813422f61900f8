"""Artifacts over HTTP."""

import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from corral.artifacts.store import ArtifactStore
from corral.handlers.artifacts import serve_artifacts
from tests.unit.handlers.serving import client_of

RUN = "3f0c3c1e-6c4f-4f2e-9a53-0d2a6f1f8d10"
TEXT = '"<script>größer</script>"'.encode() * 100
SHA = hashlib.sha256(TEXT).hexdigest()


async def serving(store: ArtifactStore) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_of(await serve_artifacts(store, 0)) as client:
        yield client
    await store.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    store = ArtifactStore("memory://served")
    await store.put("team", RUN, SHA, TEXT)
    async for each in serving(store):
        yield each


async def test_an_artifact_is_served_as_it_was_stored(client: aiohttp.ClientSession) -> None:
    async with client.get(f"/artifacts/team/{RUN}/{SHA}") as answer:
        assert (answer.status, await answer.read()) == (200, TEXT)
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        f"/artifacts/team/{RUN}/{'0' * 64}",
        f"/artifacts/other/{RUN}/{SHA}",
        f"/artifacts/team/{RUN}/%2e%2e",
        f"/artifacts/%2e%2e%2fteam/{RUN}/{SHA}",
        f"/artifacts/team/memo/{SHA}",
        f"/artifacts/team/{RUN}/",
        f"/artifacts/team/{RUN}",
        "/artifacts/team",
        "/artifacts/",
        "/",
        "/metrics",
    ],
)
async def test_there_is_nothing_else(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_nothing_can_be_changed(client: aiohttp.ClientSession, method: str) -> None:
    async with client.request(method, f"/artifacts/team/{RUN}/{SHA}", data=b"x") as answer:
        assert answer.status == 405
    async with client.get(f"/artifacts/team/{RUN}/{SHA}") as answer:
        assert await answer.read() == TEXT


async def test_a_store_that_is_away_is_told_from_a_missing_artifact(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store = ArtifactStore(f"file://{tmp_path_factory.mktemp('empty')}")
    async for client in serving(store):
        async with client.get(f"/artifacts/team/{RUN}/{SHA}") as answer:
            assert answer.status == 503
            assert "another store than before" in (await answer.json())["message"]
