"""The HTTP side: routes, the API key, and faults as they look on the wire."""

import asyncio
import contextlib
import hmac
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral.api.types import seconds
from corral.modelserver import wire
from corral.modelserver.answers import answer, read_request
from corral.modelserver.engine import Engine
from corral.modelserver.rules import Fault, RuleSet, read_rules

SIMULATED_HEADER = "Corral-Simulated"
_HANG_SECONDS = 3600.0


class ModelServer:
    """The endpoints. ``api_key`` is asked at every request; None means that no key is needed."""

    def __init__(self, engine: Engine, api_key: Callable[[], str | None]) -> None:
        self._engine = engine
        self._api_key = api_key

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/healthz", self.health),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/rules", self.rules, methods=["GET", "PUT"]),
            Route("/journal", self.journal, methods=["GET", "DELETE"]),
        ]
        return _Marked(Starlette(routes=routes), self._authorized)

    async def health(self, request: Request) -> Response:
        """Up and serving."""
        return PlainTextResponse("ok")

    async def models(self, request: Request) -> Response:
        """The names in the rules file."""
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "corral"}
            for name in self._engine.rules.models
        ]
        return JSONResponse({"object": "list", "data": data})

    async def rules(self, request: Request) -> Response:
        """The rules now, or new ones (JSON or YAML)."""
        if request.method == "PUT":
            try:
                self._engine.replace_rules(read_rules(await request.body()))
            except (ValidationError, ValueError) as error:
                return JSONResponse(wire.error(str(error), "invalid_request_error"), 400)
        return JSONResponse(self._engine.rules.to_json())

    async def journal(self, request: Request) -> Response:
        """What was asked, filtered by the query; DELETE forgets it."""
        if request.method == "DELETE":
            self._engine.clear_journal()
            return Response(status_code=204)
        return JSONResponse({"requests": self._engine.journal(request.query_params)})

    async def complete(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        try:
            asked = read_request(await request.json())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return JSONResponse(wire.error(str(error), "invalid_request_error"), 400)
        taken = self._engine.take_rule(asked)
        index, rule = taken if taken else (None, None)
        fault = rule.fault if rule else None
        fault = fault or self._engine.draw_fault(request.headers.get("corral-attempt-id"))
        delay = rule.latency if rule and rule.latency is not None else self._engine.rules.latency
        if fault is not None:
            self._engine.record(asked, request.headers, fault, index)
            await asyncio.sleep(seconds(delay))
            return await self._fail(request, fault)
        given = answer(asked, rule)
        used = (given.input_tokens, given.output_tokens)
        self._engine.record(asked, request.headers, "Answered", index, used)
        await asyncio.sleep(seconds(delay))
        if asked.stream:
            return StreamingResponse(wire.chunks(asked, given), media_type="text/event-stream")
        return JSONResponse(wire.completion(asked, given))

    async def _fail(self, request: Request, fault: Fault) -> Response:
        if fault is Fault.RATE_LIMIT:
            retry_after = str(self._engine.rules.faults.retry_after_seconds)
            body = wire.error("Rate limit reached.", "requests", "rate_limit_exceeded")
            return JSONResponse(body, 429, headers={"Retry-After": retry_after})
        if fault is Fault.QUOTA:
            body = wire.error(
                "You exceeded your quota.", "insufficient_quota", "insufficient_quota"
            )
            return JSONResponse(body, 429)
        if fault is Fault.SERVER_ERROR:
            return JSONResponse(wire.error("A simulated failure.", "server_error"), 500)
        if fault is Fault.GARBAGE:
            return Response(b'{"choices": [<garbage>', media_type="application/json")
        if fault is Fault.HANG:
            await _until_disconnected(request)
        return _Dropped()

    def _authorized(self, headers: dict[bytes, bytes]) -> bool:
        key = self._api_key()
        given = headers.get(b"authorization", b"")
        return key is None or hmac.compare_digest(given, b"Bearer " + key.encode())


async def _until_disconnected(request: Request) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HANG_SECONDS):
            while (await request.receive())["type"] != "http.disconnect":
                pass


class _Dropped(Response):
    """Promises more than it sends, whereupon the server closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"4096")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


class _Marked:
    """Refuses wrong keys, and marks every answer as simulated, errors included."""

    def __init__(self, app: ASGIApp, authorized: Callable[[dict[bytes, bytes]], bool]) -> None:
        self._app = app
        self._authorized = authorized

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                mark = (SIMULATED_HEADER.lower().encode(), b"true")
                message["headers"] = [*message["headers"], mark]
            await send(message)

        app = self._app
        if scope["path"] != "/healthz" and not self._authorized(dict(scope["headers"])):
            body: dict[str, Any] = wire.error(
                "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"
            )
            app = JSONResponse(body, 401)
        await app(scope, receive, marked)


def create_app(
    rules: RuleSet | None = None, api_key: Callable[[], str | None] = lambda: None
) -> ASGIApp:
    """The model server as an ASGI application."""
    return ModelServer(Engine(rules or RuleSet()), api_key).app()


__all__ = ["SIMULATED_HEADER", "ModelServer", "create_app"]
