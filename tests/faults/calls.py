"""What can become of a call: see ``Proxy.breaking``."""

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from aiohttp import web

from tests.faults.proxy import Call, Fault, Json


async def drop(call: Call) -> web.StreamResponse:
    """The connection is reset before the other side has heard anything."""
    return call.reset()


async def lose(call: Call) -> web.StreamResponse:
    """It is done, and the connection is reset instead of the answer."""
    await call.forward()
    return call.reset()


def lose_every_other() -> Fault:
    """As ``lose``; of what is done at one path the first, the third, …: what is repeated passes."""
    done: Counter[str] = Counter()

    async def fault(call: Call) -> web.StreamResponse:
        answer = await call.forward()
        if call.status < 300:
            done[str(call)] += 1
            if done[str(call)] % 2:
                return call.reset()
        return answer

    return fault


async def twice(call: Call) -> web.StreamResponse:
    """The network delivers it twice; the first answer comes back."""
    first = await call.forward()
    await call.forward()
    return first


def late(seconds: float) -> Fault:
    """It takes that long to arrive, and arrives also where the caller waits no more."""

    async def fault(call: Call) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await call.forward()

    return fault


def held_until(released: threading.Event) -> Fault:
    """It arrives when the test says so, also where the caller waits no more."""

    async def fault(call: Call) -> web.StreamResponse:
        while not released.is_set():
            await asyncio.sleep(0.05)
        return await call.forward()

    return fault


def refuse(status: int, reason: str = "", retry_after: int | None = None) -> Fault:
    """The API server answers so, and does nothing."""

    async def fault(call: Call) -> web.StreamResponse:
        call.status = status
        body = {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "message": f"refused with {status} by a test",
            "reason": reason,
            "code": status,
        }
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return web.json_response(body, status=status, headers=headers)

    return fault


def before(what: Callable[[], object]) -> Fault:
    """Something happens before it arrives anywhere; then the connection is reset."""

    async def fault(call: Call) -> web.StreamResponse:
        await asyncio.to_thread(what)
        return call.reset()

    return fault


def after(what: Callable[[], object]) -> Fault:
    """It is done, then something happens; the answer never comes."""

    async def fault(call: Call) -> web.StreamResponse:
        await call.forward()
        await asyncio.to_thread(what)
        return call.reset()

    return fault


def spoilt(change: Callable[[bytes], bytes]) -> Fault:
    """The answer is changed on its way."""

    async def fault(call: Call) -> web.StreamResponse:
        answer = await call.forward()
        assert isinstance(answer, web.Response)
        body = answer.body if isinstance(answer.body, bytes) else b""
        kept = {k: v for k, v in answer.headers.items() if k != "Content-Length"}
        return web.Response(status=answer.status, headers=kept, body=change(body))

    return fault


def as_of(version: str, read: Callable[[str], Json]) -> Fault:
    """Lists tell what there was at a resourceVersion: a real answer of the API server's.

    Args:
        read: asks the API server for a path and query.
    """

    async def fault(call: Call) -> web.StreamResponse:
        path, _, query = call.target.partition("?")
        asked = dict(parse_qsl(query))
        if "watch" in asked or call.verb != "GET":
            return await call.forward()
        asked |= {"resourceVersion": version, "resourceVersionMatch": "Exact"}
        answer = await asyncio.to_thread(read, f"{path}?{urlencode(asked)}")
        call.status = 200
        return web.Response(text=json.dumps(answer), content_type="application/json")

    return fault


LISTS = re.compile(r"^GET /apis?/[^?]*/(workflows|agents|models|agentpools|pods)(\?(?!.*watch)|$)")
"""Lists of a whole kind, as the operator asks for them."""
