"""The HTTP side: the protocol's endpoint, a token, the journal."""

import hmac
from collections.abc import Callable

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corral.toolserver.journal import Journal
from corral.toolserver.tools import Effects, create_server

MCP_PATH = "/mcp"


class _Guard:
    """Refuses calls of tools without the token."""

    def __init__(self, app: ASGIApp, token: Callable[[], str | None]) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith(MCP_PATH):
            token = self._token()
            given = dict(scope["headers"]).get(b"authorization", b"")
            if token is not None and not hmac.compare_digest(given, b"Bearer " + token.encode()):
                app = PlainTextResponse("The token is wrong.", 401)
        await app(scope, receive, send)


def create_app(
    token: Callable[[], str | None] = lambda: None, name: str = "corral-tools"
) -> Starlette:
    """The tool server as an ASGI application; it needs its lifespan.

    Args:
        token: asked at every request; None means that no token is needed.
        name: what the server calls itself.
    """
    journal, effects = Journal(), Effects()

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def calls(request: Request) -> Response:
        if request.method == "DELETE":
            journal.clear()
            effects.clear()
            return Response(status_code=204)
        return JSONResponse({"calls": journal.entries(request.query_params)})

    app = create_server(journal, effects, name).streamable_http_app(
        streamable_http_path=MCP_PATH,
        # It serves a cluster, under whatever name its Service has.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    app.router.routes.append(Route("/healthz", health))
    app.router.routes.append(Route("/journal", calls, methods=["GET", "DELETE"]))
    app.add_middleware(_Guard, token=token)
    return app
