"""An API server of one's own on the loopback: objects, conflicts, and faults on demand."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio import client

from corral.kube.client import Kube

Json = dict[str, Any]


class FakeApi:
    """Keeps objects by path. ``faults`` are met by the next requests, one each:

    ``hang`` (no answer), ``drop`` (the connection is cut), an HTTP status, or ``lost`` (the write
    is done and its answer is cut off). None lets a request pass.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.faults: deque[str | int | None] = deque()
        self.requests: list[tuple[str, str]] = []
        self.date: str | None = None
        self.closing = asyncio.Event()
        self._version = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        fault = self.faults.popleft() if self.faults else None
        if fault == "hang":
            await self.closing.wait()
        if fault == "drop":
            assert request.transport is not None
            request.transport.abort()
        if isinstance(fault, int):
            headers = {"Retry-After": "3"} if fault == 429 else {}
            return web.json_response({"message": "fault"}, status=fault, headers=headers)
        answer = self._answer(request, await request.text())
        if fault == "lost":
            assert request.transport is not None
            request.transport.abort()
        if self.date:
            answer.headers["Date"] = self.date
        return answer

    def _answer(self, request: web.Request, text: str) -> web.Response:
        path, body = request.path, json.loads(text) if text else {}
        if request.method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return web.json_response({"reason": "AlreadyExists"}, status=409)
        elif path not in self.objects:
            return web.json_response({"reason": "NotFound"}, status=404)
        if request.method == "PUT":
            known = self.objects[path]["metadata"]["resourceVersion"]
            if body["metadata"].get("resourceVersion") != known:
                return web.json_response({"reason": "Conflict"}, status=409)
        if request.method in ("PUT", "POST"):
            self._version += 1
            body["metadata"]["resourceVersion"] = str(self._version)
            self.objects[path] = body
        return web.json_response(self.objects[path])


@asynccontextmanager
async def served(handler: Any) -> AsyncIterator[str]:
    """Any aiohttp handler on the loopback; its address."""
    server = web.Server(handler)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def kube_of(address: str) -> AsyncIterator[Kube]:
    """A client of the server at that address."""
    configuration = client.Configuration()
    configuration.host = address
    async with client.ApiClient(configuration) as api:
        yield Kube(api)


@asynccontextmanager
async def fake_api() -> AsyncIterator[tuple[FakeApi, Kube]]:
    """A fake API server and a client of it."""
    api = FakeApi()
    async with served(api.handle) as address, kube_of(address) as kube:
        try:
            yield api, kube
        finally:
            api.closing.set()  # else a test that fails while a call hangs would never end
