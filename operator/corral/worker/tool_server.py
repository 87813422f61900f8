"""A connection to one MCP server over streamable HTTP, on the protocol's own SDK.

pydantic-ai's MCPToolset would do for agents, but it costs a worker 1.5 s and 37 MB more for its
client, makes JSON of text, and takes a server that is gone for a mistake of the model. This client
serves agents and tool steps alike, and tells apart:

==========================================================  =========================
what happened                                               then
==========================================================  =========================
the tool or its server says what is wrong                   a result with ``isError``
no connection, no answer in time, HTTP errors of a gateway  `AttemptFailedError`
==========================================================  =========================
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, Implementation, TextContent, Tool
from pydantic import ValidationError

from corral.api.attempt import META_CORRELATION_ID
from corral.api.errors import ErrorClass
from corral.api.trace import TRACEPARENT
from corral.breaker import Breaker, RestingError
from corral.worker import connections
from corral.worker.call_spans import CallSpans
from corral.worker.headers import CORRELATION_HEADER, sendable
from corral.worker.outcome import (
    AttemptFailedError,
    ToolCall,
    ToolObserver,
    ToolOutcome,
    unobserved,
)
from corral.worker.redaction import Redaction

T = TypeVar("T")
Said = TypeVar("Said", CallToolResult, Tool)

CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 4 * 2**20
"""What is read of one answer of a server, in bytes on the wire; it has to fit in memory."""
MAX_TOOLS = 512
_CLOSE_SECONDS = 2.0
_LOST = frozenset({-32000, -32001})
"""The SDK's own error codes: the connection was closed, no answer came in time."""
_ANSWERS = frozenset({400, 404})
"""The HTTP status of a protocol error may be one of these."""
_told: ContextVar[Mapping[str, str]] = ContextVar("corral_tool_call", default=MappingProxyType({}))
"""Headers of the call that is being made: the SDK sends each request in its caller's context."""


def refused_url(url: str) -> str | None:
    """Why no tool is called there, in a sentence; None if it may be.

    Link-local addresses are where clouds serve credentials to whoever asks. This is no substitute
    for a NetworkPolicy: a name can resolve to any address.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return "Its URL can't be read."
    if parts.scheme not in ("http", "https") or not host:
        return "Its URL is not an http or https one."
    if parts.username or parts.password:
        return "Its URL has a user or a password in it; headersFrom is for secrets."
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return "Its URL is a link-local address." if address.is_link_local else None


class ToolServer:
    """One connection; use it with ``async with``. Calls may run at the same time.

    The connection lives in a task of its own: when it breaks, the SDK cancels the task that opened
    it, which must not be the one that talks to a model.

    Args:
        entry: the Agent's entry that the server belongs to; empty for a step's.
        tool: what messages call it where there is no entry.
        observe: told of every call.
        headers: sent with every request; their values are kept out of everything that is said.
        timeout: seconds that one call may take.
        breaker: of the server; not asked while it rests.
        spans: the calls as the attempt's trace shows them.

    Raises:
        AttemptFailedError: ToolFailed, on entering and from every method, if the server can't be
            reached or does not answer.
    """

    def __init__(
        self,
        entry: str,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
        breaker: Breaker,
        spans: CallSpans,
        *,
        tool: str = "",
        observe: ToolObserver = unobserved,
    ) -> None:
        self._entry = entry
        self._label = f"Tool {entry or tool}"
        self._observe = observe
        self._url = url
        self._headers = dict(headers)
        self._timeout = timeout
        self._breaker = breaker
        self._spans = spans
        self._hidden = Redaction(headers.values())
        self._stop = asyncio.Event()
        self._client: asyncio.Future[Client] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._status: int | None = None
        self._too_large = False

    async def __aenter__(self) -> Self:
        refused = refused_url(self._url)
        if refused:
            raise self._failed(refused)
        async with self._unless_resting():
            await self._connect()
        return self

    @asynccontextmanager
    async def _unless_resting(self) -> AsyncIterator[None]:
        try:
            async with self._breaker.call():
                yield
        except RestingError:
            raise self._failed(
                f"Its server at {urlsplit(self._url).hostname} failed several times in a row, "
                "and is left alone for a moment."
            ) from None

    async def _connect(self) -> None:
        self._client = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(self._client))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                either: set[asyncio.Future[Any]] = {self._client, self._serving}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            await self._close()
            raise self._failed(f"Its server did not answer within {CONNECT_SECONDS:g} s.") from None
        except BaseException:
            await self._close()
            raise
        if not self._client.done():
            failed = self._failed(self._why())
            await self._close()
            raise failed
        self._status = None

    async def __aexit__(self, *args: object) -> None:
        await self._close()

    async def list_tools(self) -> list[Tool]:
        """All tools of the server."""

        async def listed(client: Client) -> list[Tool]:
            tools: list[Tool] = []
            cursor: str | None = None
            while True:
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                cursor = page.next_cursor
                if cursor is None or len(tools) > MAX_TOOLS:
                    return tools

        try:
            tools = await self._with_client(listed)
        except MCPError as error:
            why = self._hidden.text(error.message)
            raise self._failed(f"Its tools can't be listed: {why}") from None
        except (ValidationError, RuntimeError):
            raise self._failed("Its server's list of tools can't be read.") from None
        if len(tools) > MAX_TOOLS:
            raise self._failed(f"Its server has more than {MAX_TOOLS} tools.")
        return [self._redacted(tool) for tool in tools]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, str],
        call_id: str | None = None,
    ) -> CallToolResult:
        """Calls a tool once; what the server says is wrong is a result with ``is_error``.

        Args:
            call_id: the model's id of the call.
        """
        begun, outcome = self._spans.begin(), ToolOutcome.UNREACHABLE
        told = {TRACEPARENT: begun.traceparent} if begun.traceparent else {}

        async def called(client: Client) -> CallToolResult:
            correlation_id = meta.get(META_CORRELATION_ID)
            _told.set(sendable({CORRELATION_HEADER: correlation_id, **told}))
            return await client.call_tool(
                name,
                dict(arguments),
                meta={**meta, **told},  # type: ignore[arg-type]
            )

        try:
            async with self._unless_resting():
                result = await self._with_client(called)
            outcome = ToolOutcome.FAILED if result.is_error else ToolOutcome.ANSWERED
        except MCPError as error:
            outcome = ToolOutcome.FAILED
            return self._error(error.message)
        except (ValidationError, RuntimeError):
            outcome = ToolOutcome.FAILED
            return self._error("The tool answered with what does not fit its own output schema.")
        finally:
            call = ToolCall(self._entry, name, begun.seconds, outcome, call_id)
            self._observe(call)
            self._spans.tool_called(begun, call)
        return self._redacted(result)

    async def _with_client(self, do: Callable[[Client], Awaitable[T]]) -> T:
        """Does something with the connection, or tells that it broke."""
        assert self._client is not None
        assert self._serving is not None
        work = asyncio.ensure_future(do(self._client.result()))
        try:
            await asyncio.wait({work, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if work.cancelled():
            raise self._failed(self._why())
        error = work.exception()
        if self._too_large:
            why = f"{self._label}: Its answer has more than {MAX_ANSWER_BYTES} bytes."
            raise _TooLargeError(ErrorClass.TOOL_FAILED, why)
        if isinstance(error, MCPError):
            if error.code == -32001:
                raise self._failed(f"It did not answer within {self._timeout:g} s.")
            if error.code in _LOST or self._status is not None:
                raise self._failed(self._why())
        elif error is not None and not isinstance(error, ValidationError | RuntimeError):
            raise self._failed(self._why(error))
        return work.result()

    async def _serve(self, ready: "asyncio.Future[Client]") -> None:
        async with (
            httpx2.AsyncClient(
                headers=self._headers,
                timeout=httpx2.Timeout(CONNECT_SECONDS, read=self._timeout + CONNECT_SECONDS),
                limits=connections.limits(),
                verify=_tls(),
                event_hooks={"request": [_tell], "response": [self._look]},
            ) as http,
            Client(
                streamable_http_client(
                    self._url, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES
                ),
                read_timeout_seconds=self._timeout,
                client_info=Implementation(name="corral", version="1"),
                cache=None,
            ) as client,
        ):
            ready.set_result(client)
            await self._stop.wait()

    async def _close(self) -> None:
        serving = self._serving
        if serving is None:
            return
        self._stop.set()
        await asyncio.wait({serving}, timeout=_CLOSE_SECONDS)
        if not serving.done():
            serving.cancel()
            await asyncio.wait({serving}, timeout=_CLOSE_SECONDS)
        if serving.done() and not serving.cancelled():
            serving.exception()  # how it ended has been told, or does not matter any more

    async def _look(self, response: httpx2.Response) -> None:
        said = response.headers.get("content-type", "").startswith("application/json")
        if response.status_code >= 400 and not (said and response.status_code in _ANSWERS):
            self._status = response.status_code
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, self._refuse)

    def _refuse(self) -> None:
        self._too_large = True

    def _why(self, error: BaseException | None = None) -> str:
        if self._status is not None:
            return f"Its server answered with HTTP {self._status}."
        if error is None and self._serving is not None and self._serving.done():
            error = None if self._serving.cancelled() else self._serving.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, MCPError) and error.code not in _LOST:
            return f"Its server can't be used: {self._hidden.text(error.message)}"
        # Only the type: an HTTP library's words can quote a header.
        detail = f" ({type(error).__name__})" if error is not None else ""
        return f"Its server at {urlsplit(self._url).hostname} can't be reached{detail}."

    def _failed(self, why: str) -> AttemptFailedError:
        return AttemptFailedError(ErrorClass.TOOL_FAILED, f"{self._label}: {why}")

    def _error(self, message: str) -> CallToolResult:
        text = TextContent(type="text", text=self._hidden.text(message))
        return CallToolResult(content=[text], is_error=True)

    def _redacted(self, said: Said) -> Said:
        """Servers that echo what they were sent must not tell a model the secrets."""
        before = said.model_dump(mode="json", by_alias=True)
        after = self._hidden.value(before)
        return said if after == before else said.model_validate(after)


class _TooLargeError(AttemptFailedError):
    """The server answered, with more than can be read."""


class _Bounded(httpx2.AsyncByteStream):
    """A body that ends with an error when it gets too large."""

    def __init__(self, stream: httpx2.AsyncByteStream, refuse: Callable[[], None]) -> None:
        self._stream = stream
        self._refuse = refuse

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                self._refuse()
                raise httpx2.StreamError("the answer is too large")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _tell(request: httpx2.Request) -> None:
    request.headers.update(_told.get())


@cache
def _tls() -> ssl.SSLContext:
    """Shared: to load the system's certificates takes longer than a call."""
    return httpx2.create_ssl_context()
