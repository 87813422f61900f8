"""The proxy does to calls and events what rules say: else tests behind it would prove nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.faults import calls, events
from tests.faults.proxy import Proxy
from tests.unit.kube.fake_api import served

THING = "/apis/corral.dev/v1alpha1/namespaces/n/workflows/w"
WATCH = {"watch": "true"}


class Behind:
    """A server that counts, and that tells the events it is given on every watch."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.events: asyncio.Queue[Any] = asyncio.Queue()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        if "watch" not in request.query:
            return web.json_response({"call": len(self.calls)})
        stream = web.StreamResponse()
        await stream.prepare(request)
        while (event := await self.events.get()) is not None:
            await stream.write(json.dumps(event).encode() + b"\n")
        return stream


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Behind, Proxy, str]]:
    server = Behind()
    async with served(server.handle) as address:
        proxy = await asyncio.to_thread(Proxy(address).__enter__)
        try:
            yield server, proxy, await asyncio.to_thread(proxy.door, "front")
        finally:
            server.events.put_nowait(None)
            await asyncio.to_thread(proxy.__exit__)


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[aiohttp.StreamReader]:
    """What a watch of Workflows says."""
    where = f"{url}/apis/x/workflows"
    async with aiohttp.ClientSession() as session, session.get(where, params=WATCH) as answer:
        yield answer.content


async def put(url: str, body: str = "{}") -> tuple[int, Any]:
    """Status and answer; 0 where the connection was reset."""
    async with aiohttp.ClientSession() as session:
        # POST, which no client sends again by itself.
        with suppress(aiohttp.ClientConnectionError):
            async with session.post(url, data=body) as answer:
                return answer.status, json.loads(await answer.read())
    return 0, None


@pytest.mark.parametrize(
    ("fault", "status", "done"),
    [
        (calls.drop, 0, 0),
        (calls.lose, 0, 1),
        (calls.twice, 200, 2),
        (calls.late(0.05), 200, 1),
        (calls.refuse(409, "Conflict"), 409, 0),
        (calls.lose_every_other(), 0, 1),
    ],
    ids=["drop", "lose", "twice", "late", "refuse", "lose_every_other"],
)
async def test_a_call_meets_its_fault_and_then_no_more(
    behind: tuple[Behind, Proxy, str], fault: Any, status: int, done: int
) -> None:
    server, proxy, url = behind
    with proxy.breaking(r"^POST .*/workflows/w", fault, times=1) as rule:
        assert (await put(url + THING))[0] == status
        assert len(server.calls) == done
        assert (await put(url + THING))[0] == 200
    assert len(rule.met) == 1
    assert (await put(url + THING))[0] == 200
    assert len(server.calls) == done + 2


async def test_a_refusal_says_what_the_api_server_would(
    behind: tuple[Behind, Proxy, str],
) -> None:
    _, proxy, url = behind
    with proxy.breaking("POST", calls.refuse(429, "TooManyRequests", retry_after=7)):
        async with aiohttp.ClientSession() as session, session.post(url + THING) as answer:
            assert answer.headers["Retry-After"] == "7"
            assert (await answer.json())["reason"] == "TooManyRequests"


async def test_a_rule_is_for_every_other_call_for_those_about_a_name_and_for_one_door(
    behind: tuple[Behind, Proxy, str],
) -> None:
    _, proxy, url = behind
    refuse = calls.refuse(500)
    with proxy.breaking("POST", refuse, every_other=True):
        assert [(await put(url + THING))[0] for _ in range(4)] == [500, 200, 500, 200]
    with proxy.breaking("POST", refuse, about="anna"):
        assert [(await put(url + THING, name))[0] for name in ("bert", "anna")] == [200, 500]
    with proxy.breaking("POST", refuse, spare=1, times=1):
        assert [(await put(url + THING))[0] for _ in range(3)] == [200, 500, 200]
    back = await asyncio.to_thread(proxy.door, "back")
    with proxy.breaking("POST", refuse, by="back"):
        assert [(await put(door + THING))[0] for door in (url, back)] == [200, 500]


def event(name: str) -> Any:
    return {"type": "ADDED", "object": {"kind": "Workflow", "metadata": {"name": name}}}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (events.hidden, ""),
        (events.doubled, "aabbcc"),
        (events.swapped(), "ba"),
        (events.thinned(), "b"),
        (events.of("b", events.hidden), "ac"),
        (events.of("b", events.hidden, "DELETED"), "abc"),
    ],
    ids=["hidden", "doubled", "swapped", "thinned", "of a name", "of a type"],
)
async def test_events_of_an_open_watch_are_changed(
    behind: tuple[Behind, Proxy, str], change: Any, told: str
) -> None:
    server, proxy, url = behind
    async with watching(url) as told_by:
        with proxy.breaking("watch=", change=change):
            for name in "abc":
                server.events.put_nowait(event(name))
            server.events.put_nowait(None)
            lines = (await told_by.read()).splitlines()
    assert "".join(json.loads(line)["object"]["metadata"]["name"] for line in lines) == told


async def test_open_watches_are_told_silenced_and_cut(behind: tuple[Behind, Proxy, str]) -> None:
    server, proxy, url = behind
    async with watching(url) as told_by:
        while proxy.watching("watch=") == 0:  # its answer's head came before
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(proxy.tell, "watch=", events.error(410)) == 1
        assert json.loads(await told_by.readline())["object"]["code"] == 410
        assert await asyncio.to_thread(proxy.silence, "watch=") == 1
        server.events.put_nowait(event("unheard"))
        assert await asyncio.to_thread(proxy.cut, "/pods") == 0
        assert await asyncio.to_thread(proxy.cut, "watch=") == 1
        with pytest.raises(aiohttp.ClientError):
            await told_by.readline()


async def test_addresses_of_pods_lead_through_the_proxy() -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b'{"items":[{"status":{"podIP":"10.244.250.251"}}]}')

    async with served(handle) as address:
        proxy = await asyncio.to_thread(Proxy(address).__enter__)
        try:
            url = await asyncio.to_thread(proxy.door, "front")
            _, answer = await put(f"{url}/api/v1/pods")
            assert answer["items"][0]["status"]["podIP"] == "127.244.250.251"
            with proxy.breaking(r"^POST /workers/10\.244\.250\.251/x$", calls.refuse(418)) as rule:
                assert (await put("http://127.244.250.251:8080/x"))[0] == 418
            assert rule.met
        finally:
            await asyncio.to_thread(proxy.__exit__)
