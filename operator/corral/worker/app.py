"""The worker as an ASGI application: A2A's routes, our own endpoints, authentication."""

import json
import math
import re
from collections.abc import Callable
from time import time
from typing import cast

from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH, DEFAULT_RPC_URL
from a2a.utils.error_handlers import build_rest_error_payload
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corral.api.attempt import (
    ACK_PATH,
    DRAIN_PATH,
    HEADER_IDENTITY,
    HEALTH_PATH,
    INVENTORY_PATH,
    METRICS_PATH,
    READY_PATH,
    REFUSALS,
    Ack,
    AttemptError,
    Inventory,
    OperatorIdentity,
    WorkerConfig,
)
from corral.api.errors import ErrorClass
from corral.worker.attempt import RefusedError
from corral.worker.attempts import AttemptTable
from corral.worker.auth import TokenVerifier
from corral.worker.card import agent_card
from corral.worker.gate import LEASE_SECONDS, Gate
from corral.worker.handler import WorkerRequestHandler
from corral.worker.headers import HeaderSource, missing_header, no_headers
from corral.worker.identity import IdentitySource, anonymous
from corral.worker.keys import KeySource, missing_key
from corral.worker.metrics import WorkerMetrics
from corral.worker.refusals import to_a2a
from corral.worker.runtime import AgentRuntime

OPEN_PATHS = frozenset({HEALTH_PATH, READY_PATH, METRICS_PATH, AGENT_CARD_WELL_KNOWN_PATH})
_MAX_BODY_BYTES = 16 * 2**20
_MANY_BRACKETS = 500
"""Fewer can't be nested deeper than Python's parser goes."""
_ODD_NUMBER = re.compile(rb"[0-9]{300}|[0-9][eE]\+?[0-9]{3}|NaN|Infinity")
"""What may be a number that Python does not read (4,300 digits) or that is none to A2A."""
_UNAUTHORIZED = {
    "error": {
        "code": REFUSALS["Unauthorized"],
        "status": "UNAUTHENTICATED",
        "message": "The operator's token is needed.",
        "details": [{"reason": "Unauthorized"}],
    }
}


class Worker:
    """Everything of one worker process but the sockets and signals.

    Args:
        config: what the pod was given.
        pod_uid: this pod's, which tokens must be made out to.
        keys: from a Model's name to its API key.
        identity: reads the operator's identity again, when its keys may have changed.
        headers: from a tool's and a header's name to the header's value.
        shown: the token that answers to verified calls carry.
    """

    def __init__(
        self,
        config: WorkerConfig,
        pod_uid: str,
        keys: KeySource,
        identity: Callable[[], OperatorIdentity] | None = None,
        now: Callable[[], float] = time,
        headers: HeaderSource = no_headers,
        shown: IdentitySource = anonymous,
    ) -> None:
        self.config = config
        self._keys = keys
        self._headers = headers
        self._shown = shown
        self.metrics = WorkerMetrics()
        self.runtime = AgentRuntime(
            config.agent,
            config.agent_name,
            config.models,
            keys,
            headers,
            self.metrics.tool_ended,
            self.metrics.tool_server,
        )
        self.gate = Gate(pod_uid)
        self.table = AttemptTable(
            config.concurrency, obstacle=self.problem, on_end=self.metrics.attempt_ended
        )
        self._verifier = TokenVerifier(identity or (lambda: config.operator), pod_uid, now)
        watched = self.table
        self.metrics.watch("attempts_running", "Attempts at work.", lambda: watched.running)
        self.metrics.watch("attempts_waiting", "Attempts that wait.", lambda: watched.waiting)
        self.metrics.watch("attempts_unacked", "Results not acked.", lambda: watched.unacked)

    def problem(self) -> str | None:
        """Why the worker is not ready, in a sentence; it may pass when a key is mounted."""
        return (
            self.runtime.problem()
            or missing_key(self.config.models, self._keys)
            or missing_header(self.config.agent.tools, self._headers)
        )

    def inventory(self) -> Inventory:
        """What the worker holds."""
        return Inventory(
            pod_uid=self.gate.pod_uid,
            epoch=self.gate.epoch,
            draining=self.table.draining,
            free=self.table.free,
            attempts=self.table.inventory(),
            problem=self.problem(),
        )

    def stop_abandoned(self) -> None:
        """Ends what runs for an operator that has not called for longer than the lease."""
        if self.table.running and self.gate.abandoned():
            message = f"No operator has called this worker for {LEASE_SECONDS:g} s."
            self.table.stop_all(AttemptError(error_class=ErrorClass.WORKER_LOST, message=message))

    def app(self) -> ASGIApp:
        """The ASGI application."""
        handler = WorkerRequestHandler(
            self.table,
            self.runtime,
            self.gate,
            self.config.agent_revision,
            self.metrics.call_ended,
        )
        routes = [
            Route(HEALTH_PATH, self._health),
            Route(READY_PATH, self._ready),
            Route(METRICS_PATH, self._metrics),
            Route(AGENT_CARD_WELL_KNOWN_PATH, self._card),
            Route(ACK_PATH, self._ack, methods=["POST"]),
            Route(INVENTORY_PATH, self._inventory),
            Route(DRAIN_PATH, self._drain, methods=["POST"]),
            *create_jsonrpc_routes(handler, DEFAULT_RPC_URL),
            *create_rest_routes(handler),
        ]
        return _Guard(Starlette(routes=routes), self._verifier, self._shown)

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _ready(self, request: Request) -> Response:
        problem = self.problem()
        return JSONResponse({"problem": problem}, 503 if problem else 200)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _card(self, request: Request) -> Response:
        config = self.config
        base_url = str(request.base_url)
        card = agent_card(config.agent, config.agent_name, config.agent_revision, base_url)
        return JSONResponse(agent_card_to_dict(card))

    async def _ack(self, request: Request) -> Response:
        try:
            ack = Ack.model_validate_json(await request.body())
        except ValidationError:
            return JSONResponse({"error": {"code": 400, "message": "This is no Ack."}}, 400)
        refused = self._refused(request)
        if refused:
            return refused
        self.table.ack(ack.attempt_ids, booked=ack.booked)
        return Response(status_code=204)

    async def _inventory(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse(self.inventory().to_json())

    async def _drain(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused:
            return refused
        self.table.drain()
        return JSONResponse(self.inventory().to_json())

    def _refused(self, request: Request) -> Response | None:
        try:
            self.gate.check(request.headers)
        except RefusedError as refused:
            return JSONResponse(build_rest_error_payload(to_a2a(refused)), REFUSALS[refused.reason])
        return None


class _Guard:
    """Answers 401, always in the same words, before anything of a request is read.

    Answers to calls that it lets pass say who the worker is, and nobody else is told.
    """

    def __init__(self, app: ASGIApp, verifier: TokenVerifier, shown: IdentitySource) -> None:
        self._app = app
        self._verifier = verifier
        self._shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = dict(cast("list[tuple[bytes, bytes]]", scope["headers"]))
            if not self._verifier.accepts(given.get(b"authorization", b"").decode("latin-1")):
                app = JSONResponse(_UNAUTHORIZED, 401, headers={"WWW-Authenticate": "Bearer"})
            else:
                send = _signed(send, self._shown())
                body = await _body(receive)
                wrong = _unreadable(body)
                if wrong:
                    status, message = wrong
                    # Closed: the rest of a body that is too large is not waited for.
                    headers = {"Connection": "close"}
                    app = JSONResponse(
                        {"error": {"code": status, "message": message}}, status, headers
                    )
                receive = _again(body, receive)
        await app(scope, receive, send)


async def _body(receive: Receive) -> bytes:
    """The request's body, or more of it than there may be."""
    body = bytearray()
    while len(body) <= _MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


def _unreadable(body: bytes) -> tuple[int, str] | None:
    """Why a body is not looked into, as a status and a sentence; None if it is."""
    if len(body) > _MAX_BODY_BYTES:
        return 413, "The request is too large."
    try:
        body.decode()
        if body.count(b"[") + body.count(b"{") > _MANY_BRACKETS or _ODD_NUMBER.search(body):
            json.loads(body, parse_constant=_finite, parse_float=_finite)
    except UnicodeDecodeError:
        return 400, "The request is not UTF-8."
    except RecursionError:
        return 400, "The request is nested too deep."
    except json.JSONDecodeError:
        return None  # is told by who expects JSON
    except ValueError:
        return 400, "A number in the request is too large, or is none."
    return None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no JSON number")
    return number


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read, and then what comes after it."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _signed(send: Send, token: str | None) -> Send:
    """Puts the token into the answer's headers."""
    if token is None:
        return send
    header = (HEADER_IDENTITY.lower().encode(), token.encode("latin-1", errors="replace"))

    async def signed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], header]}
        await send(message)

    return signed


def read_config(text: str | bytes) -> WorkerConfig:
    """The worker's configuration from its file.

    Raises:
        ValueError: it can't be read.
    """
    return WorkerConfig.model_validate(json.loads(text))
