"""A proxy that stands between an operator and everything it calls, and breaks what it is told to.

It is a reverse proxy for the API server, in a thread of its own. In the addresses of pods that
pass through it the first number becomes 127, and at these addresses it listens for the calls to
workers: so it is between the operator and them as well, and the operator needs no setting for it.
The thread lives in the network namespace of a cluster, where the operator and the pods are.

What goes wrong is said by rules, which tests add and lift while it runs. A rule's pattern is
searched for in ``VERB /path?query``; a call to a worker reads ``VERB /workers/<address>/path``.
"""

import asyncio
import ctypes
import json
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

Json = dict[str, Any]
Answer = TypeVar("Answer")

WORKER_PORT = 8080
_POD_ADDRESS = re.compile(rb'"podIP":"(\d+)\.(\d+\.\d+\.\d+)"')
_CLONE_NEWNET = 0x40000000
# Of one connection only, or made anew here.
_NOT_FORWARDED = frozenset(
    {"host", "connection", "transfer-encoding", "content-length", "keep-alive", "accept-encoding"}
)


@dataclass
class Call:
    """One call of the operator's, on its way."""

    verb: str
    target: str
    """The path and the query; for a worker with ``/workers/<address>`` before it."""
    body: bytes
    forward: Callable[[], Awaitable[web.StreamResponse]]
    """Has it done. May be called more than once, or never."""
    reset: Callable[[], web.StreamResponse]
    """Ends the connection without an answer."""
    by: str = ""
    """The door at which it came in."""
    at: float = field(default_factory=monotonic)
    status: int = 0
    """What was answered; 0 where the connection was reset."""

    def __str__(self) -> str:
        return f"{self.verb} {self.target}"

    @property
    def writes(self) -> bool:
        """Whether it may change an object; the Lease, and tokens, which are no objects, aside."""
        return (
            self.verb != "GET"
            and not self.target.startswith("/workers/")
            and re.search(r"/leases\b|/token$", self.target) is None
        )


Fault = Callable[[Call], Awaitable[web.StreamResponse]]
"""What becomes of a call."""
Change = Callable[[Json], list[Json]]
"""What becomes of an event of a watch."""


@dataclass
class Rule:
    """What goes wrong, with which calls or with the events of which watches, and how often."""

    pattern: re.Pattern[str]
    about: str = ""
    """Only calls with this in their path or body."""
    by: str = ""
    """Only calls that came in at this door."""
    fault: Fault | None = None
    change: Change | None = None
    spare: int = 0
    """So many calls pass before it begins."""
    times: int | None = None
    """So many calls, then no more."""
    until: float | None = None
    """By the monotonic clock."""
    every_other: bool = False
    """Of the calls of one verb and path the first, the third, …: so what is repeated passes."""
    met: list[Call] = field(default_factory=list)
    """The calls, or the calls of the watches, that met it."""
    _seen: Counter[str] = field(default_factory=Counter)

    def meets(self, call: Call) -> bool:
        """Whether it is this call's turn; it is counted then."""
        if self.until is not None and monotonic() > self.until:
            return False
        if self.times is not None and len(self.met) >= self.times:
            return False
        if self.pattern.search(str(call)) is None:
            return False
        if self.by and self.by != call.by:
            return False
        if self.about not in call.target and self.about.encode() not in call.body:
            return False
        if self.every_other:
            self._seen[str(call)] += 1
            if self._seen[str(call)] % 2 == 0:
                return False
        if self.spare > 0:
            self.spare -= 1
            return False
        self.met.append(call)
        return True


@dataclass
class _Stream:
    """A watch that is open."""

    call: Call
    response: web.StreamResponse
    silent: bool = False

    async def tell(self, event: Json) -> None:
        await self.response.write(json.dumps(event).encode() + b"\n")


class Proxy:
    """Started and stopped by a ``with`` block. All of it may be called from any thread.

    Args:
        api: the API server's URL.
        trust: how to know it; None for plain HTTP.
        network: the network namespace to live in, as a file of /proc; None for this one.
        workers: whether to stand before the workers too.
    """

    def __init__(
        self,
        api: str,
        trust: ssl.SSLContext | None = None,
        network: Path | None = None,
        workers: bool = True,
    ) -> None:
        self._api = api
        self._trust = trust
        self._network = network
        self._workers = workers
        self._rules: list[Rule] = []
        self._streams: list[_Stream] = []
        self._listening: dict[str, Awaitable[None]] = {}
        self.calls: list[Call] = []
        """Every call that came, oldest first."""
        self._doors: dict[int, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: "Awaitable[Answer]", timeout: float = 30) -> Answer:
        """Has a coroutine run where the proxy is, in its loop and its network."""

        async def awaited() -> Answer:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(timeout)

    def door(self, name: str) -> str:
        """An address of the API server's, by which calls can be told from those at other doors."""

        async def opened() -> str:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            self._doors[port] = name
            await web.SockSite(self._runner, listener).start()
            return f"http://127.0.0.1:{port}"

        return self.run(opened())

    @contextmanager
    def breaking(
        self,
        pattern: str,
        fault: Fault | None = None,
        *,
        about: str = "",
        by: str = "",
        change: Change | None = None,
        spare: int = 0,
        times: int | None = None,
        seconds: float | None = None,
        every_other: bool = False,
    ) -> Iterator[Rule]:
        """A rule for as long as the block: a ``fault`` of calls or a ``change`` of events."""
        until = None if seconds is None else monotonic() + seconds
        rule = Rule(re.compile(pattern), about, by, fault, change, spare, times, until, every_other)
        self._rules.append(rule)
        try:
            yield rule
        finally:
            self._rules.remove(rule)

    def tell(self, pattern: str, event: Json) -> int:
        """Has open watches tell an event that the API server did not; how many did."""
        told = 0
        for stream in self._watches(pattern):
            with suppress(ConnectionError):  # it has ended meanwhile
                self.run(stream.tell(event))
                told += 1
        return told

    def watching(self, pattern: str) -> int:
        """How many watches are open."""
        return len(self._watches(pattern))

    def cut(self, pattern: str) -> int:
        """Resets open watches; how many."""
        found = self._watches(pattern)
        for stream in found:
            self._loop.call_soon_threadsafe(stream.call.reset)
        return len(found)

    def silence(self, pattern: str) -> int:
        """Open watches stay open and say nothing any more; how many."""
        found = self._watches(pattern)
        for stream in found:
            stream.silent = True
        return len(found)

    def _watches(self, pattern: str) -> list[_Stream]:
        return [stream for stream in self._streams if re.search(pattern, str(stream.call))]

    def fetch(self, verb: str, url: str, body: Json | None = None) -> Any:
        """JSON from a server within the network where the proxy is."""

        async def asked() -> Any:
            async with self._session.request(verb, url, json=body) as response:
                return json.loads(await response.read())

        return self.run(asked())

    def _run(self) -> None:
        if self._network is not None:
            libc = ctypes.CDLL(None, use_errno=True)
            with self._network.open() as namespace:
                if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {self._network}")
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust or True),
            timeout=aiohttp.ClientTimeout(total=None, connect=5),
            auto_decompress=False,
            trust_env=False,
        )
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0)
        await self._runner.setup()

    async def _close(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()
        # TLS connections end in later turns of the loop: else their sockets are left open.
        await asyncio.sleep(0.25)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        host, _, port = request.host.rpartition(":")
        worker = self._workers and host != "127.0.0.1"
        target = request.raw_path
        # Read back from the address at which it came, see _before_workers.
        base = f"http://{_of_pod(host)}:{WORKER_PORT}" if worker else self._api
        body = await request.content.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _NOT_FORWARDED}
        headers["Accept-Encoding"] = "identity"

        async def forward() -> web.StreamResponse:
            return await self._forward(request, call, base + target, headers)

        def reset() -> web.StreamResponse:
            call.status = 0
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

        named = f"/workers/{_of_pod(host)}{target}" if worker else target
        door = "" if worker else self._doors[int(port)]
        call = Call(request.method, named, body, forward, reset, door)
        self.calls.append(call)
        faulty = next((r for r in self._rules if r.fault is not None and r.meets(call)), None)
        try:
            if faulty is not None and faulty.fault is not None:
                return await faulty.fault(call)
            return await forward()
        except (aiohttp.ClientError, ConnectionError):
            return reset()  # as the caller would have seen it

    async def _forward(
        self, request: web.BaseRequest, call: Call, url: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        async with self._session.request(
            call.verb,
            URL(url, encoded=True),
            headers=headers,
            data=call.body or None,
            ssl=self._trust or True,
        ) as answer:
            call.status = answer.status
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _NOT_FORWARDED}
            if "watch=" in call.target and answer.status == 200:
                response = web.StreamResponse(status=200, headers=kept)
                await response.prepare(request)
                await self._pass_on_events(_Stream(call, response), answer)
                return response
            content = await self._before_workers(await answer.read())
            return web.Response(status=answer.status, headers=kept, body=content)

    async def _pass_on_events(self, stream: _Stream, answer: aiohttp.ClientResponse) -> None:
        self._streams.append(stream)
        try:
            async for line in _lines(answer.content):
                events = [json.loads(await self._before_workers(line))]
                for rule in list(self._rules):
                    if rule.change is not None:
                        events = self._changed(rule, rule.change, stream.call, events)
                for event in [] if stream.silent else events:
                    await stream.tell(event)
        finally:
            self._streams.remove(stream)

    def _changed(self, rule: Rule, change: Change, call: Call, events: list[Json]) -> list[Json]:
        told = []
        for event in events:
            told += change(event) if rule.meets(call) else [event]
        return told

    async def _before_workers(self, content: bytes) -> bytes:
        """Has the addresses of pods lead here."""
        if not self._workers or b'"podIP":"' not in content:
            return content
        for _, rest in set(_POD_ADDRESS.findall(content)):
            address = f"127.{rest.decode()}"
            if address not in self._listening:
                site = web.TCPSite(self._runner, address, WORKER_PORT)
                self._listening[address] = asyncio.ensure_future(site.start())
            await self._listening[address]
        return _POD_ADDRESS.sub(rb'"podIP":"127.\2"', content)


def _of_pod(host: str) -> str:
    """The address of the pod for which the proxy listens there."""
    return "10." + host.partition(".")[2]


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; aiohttp's own may have 64 KiB."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
