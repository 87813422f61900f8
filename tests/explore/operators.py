"""Operator processes: the real controller, between a gate and nothing.

Left out are kopf, whose watches are fed from the API server in memory instead, and the health and
artifacts servers.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import httpx

from corral.artifacts.store import ArtifactStore
from corral.handlers.main import _prime_and_run
from corral.kube import events
from corral.kube.client import LEASES, ApiError, Json, Kind, Kube
from corral.ledger.writer import Ledger
from corral.plan.names import WORKER_SELECTOR
from corral.reconcile.controller import WATCHED, Controller
from corral.tracing.tracer import Tracer
from tests.explore.api_server import ApiServer, selected
from tests.explore.books import Books, Outbox, Rows
from tests.explore.clock import OWNER
from tests.explore.gate import Gate
from tests.explore.plans import Call, Watching
from tests.explore.workers import Kubelet

NAMESPACE = "corral-system"
IMAGE = "localhost/corral:explored"
EVENT_TRAVEL = 0.004
"""Seconds after which a watch tells of a change."""
_LEASE = LEASES.path(NAMESPACE)
_OPTIONAL = ("/events", "/token")


class KubeInMemory(Kube):
    """The operator's client, of a server in memory."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__(None)
        self._server = server

    async def carry(self, method: str, path: str, effect: Callable[[], Json]) -> Json:
        """The way of a call to the server."""
        return effect()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
        accept: str = "application/json",
    ) -> Json:
        def effect() -> Json:
            return self._server.call(method, path, body, query, accept)

        return await self.carry(method, path, effect)


class _Kube(KubeInMemory):
    """By a gate, where calls are lost."""

    def __init__(self, process: "Operator", server: ApiServer, gate: Gate) -> None:
        super().__init__(server)
        self._process = process
        self._gate = gate

    async def carry(self, method: str, path: str, effect: Callable[[], Json]) -> Json:
        lost = ApiError(0, "Unreachable", f"{method} {path}: connection reset")
        if path.startswith(_LEASE):
            return await self._gate.uncounted(self._process, effect, lost)
        call = Call(method, path, optional=path.endswith(_OPTIONAL))
        return await self._gate.call(self._process, call, effect, lost)


class _Network(httpx.AsyncBaseTransport):
    """The way from the operator to the workers."""

    def __init__(self, process: "Operator", kubelet: Kubelet, gate: Gate) -> None:
        self._process = process
        self._kubelet = kubelet
        self._gate = gate

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        host = request.url.host

        async def effect() -> httpx.Response:
            pod = self._kubelet.at(host)
            if pod is None:
                raise httpx.ConnectError("no route to host")
            return await pod.serve(request)

        pod = self._kubelet.at(host)
        name = pod.key[2] if pod else host
        call = Call(request.method, f"{name}{request.url.path}", to_worker=True)
        lost = httpx.ReadError("connection reset")
        return await self._gate.call(self._process, call, effect, lost, host)


class Operator:
    """One operator process, from its start to its end."""

    def __init__(
        self,
        identity: str,
        server: ApiServer,
        kubelet: Kubelet,
        gate: Gate,
        artifacts: str,
        watching: tuple[Watching, int] | None,
        books: Books,
    ) -> None:
        self.dead = False
        self.ended = asyncio.Event()
        """Set once the process is no more."""
        self._server = server
        self._kubelet = kubelet
        self._gate = gate
        self._artifacts = artifacts
        self._identity = identity
        self._watching = watching
        self._books = books
        self._draw = random.Random(watching[1] if watching else 0)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context = copy_context()
        self._context.run(OWNER.set, self._tasks)
        self._unwatch = lambda: None
        self.controller: Controller

    def start(self) -> None:
        """Starts the process."""
        loop = asyncio.get_running_loop()
        self._main = loop.create_task(self._run(), context=self._context)
        self._main.add_done_callback(self._ended)

    async def _run(self) -> None:
        events._ration = events.Ration()  # what a process begins with
        events._posting.clear()
        kube = _Kube(self, self._server, self._gate)
        store = ArtifactStore(self._artifacts)
        network = _Network(self, self._kubelet, self._gate)
        connecting = partial(httpx.AsyncClient, transport=network)
        with patch("corral.dispatch.client.HttpxAiohttpClient", connecting):
            rows = Rows(self, self._gate, self._books)
            ledger = Ledger(rows, outbox=cast("Any", Outbox(rows)))
            tracer = Tracer(lambda *_: True)
            self.controller = Controller(
                kube, store, NAMESPACE, self._identity, IMAGE, ledger=ledger, tracer=tracer
            )
        self._watch()
        await _prime_and_run(self.controller)

    def _watch(self) -> None:
        kinds = {kind.plural: kind for kind in WATCHED}
        for kind in WATCHED:
            for obj in self._server.all(kind.plural):
                self._tell(kind, None, obj)

        def saw(plural: str, event: str, obj: Json) -> None:
            if plural in kinds:
                self._tell(kinds[plural], event, obj)

        self._unwatch = self._server.watch(saw)

    def _tell(self, kind: Kind, event: str | None, obj: Json) -> None:
        if kind.plural == "pods" and not selected(obj, WORKER_SELECTOR):
            return
        for delay in self._delays():
            loop = asyncio.get_running_loop()
            told = {**obj, "metadata": dict(obj["metadata"])}
            loop.call_later(delay, self._saw, kind, event, told, context=self._context)

    def _delays(self) -> list[float]:
        """When an event comes, and when again."""
        if self._watching is None:
            return [EVENT_TRAVEL]
        how, number = self._watching
        if how is Watching.LATE:
            return [float(number)]
        times = 1 + (self._draw.random() < 0.3)
        return [EVENT_TRAVEL + self._draw.random() * 2 for _ in range(times)]

    def _saw(self, kind: Kind, event: str | None, obj: Json) -> None:
        if not self.dead:
            self.controller.saw(kind, event, obj)

    def kill(self) -> None:
        """Ends it: what its tasks still do on their way out reaches nobody."""
        if self.dead:
            return
        self.dead = True
        self._unwatch()
        asyncio.get_running_loop().call_soon(self._bury)

    def _bury(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _ended(self, main: "asyncio.Task[None]") -> None:
        self.kill()
        self.ended.set()
        if not main.cancelled() and (error := main.exception()) is not None:
            raise error

    async def buried(self) -> None:
        """Waits until nothing of it is left.

        Raises:
            AssertionError: something does not end though it was cancelled.
        """
        for _ in range(500):
            if not self._tasks:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"these tasks can't be cancelled: {self._tasks}")
