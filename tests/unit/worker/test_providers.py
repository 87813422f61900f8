"""Providers with protocols of their own, against small stand-ins of their servers."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.api.trace import SpanRef
from corral.worker.call_spans import CallSpans
from corral.worker.outcome import UsageMeter
from corral.worker.runtime import AgentRuntime
from tests.unit.worker.serving import serving

pytestmark = pytest.mark.xdist_group("sdks")  # which take seconds to import, once for both

ATTEMPT = "r.a.0.1.1"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


async def anthropic(request: Request) -> Response:
    if request.headers["authorization"] != "Bearer right":
        error = {"type": "authentication_error", "message": "invalid key: wrong"}
        return JSONResponse({"type": "error", "error": error}, 401)
    body = await request.json()
    content: list[dict[str, Any]] = [{"type": "text", "text": "Hello."}]
    if body.get("tools"):
        name = body["tools"][0]["name"]
        content = [{"type": "tool_use", "id": "t1", "name": name, "input": {"n": 4}}]
    return JSONResponse(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 9, "output_tokens": 4},
        }
    )


async def google(request: Request) -> Response:
    if request.headers["x-goog-api-key"] != "right":
        error = {"code": 403, "message": "wrong key", "status": "PERMISSION_DENIED"}
        return JSONResponse({"error": error}, 403)
    body = await request.json()
    part: dict[str, Any] = {"text": "Hello."}
    if body.get("tools"):
        name = body["tools"][0]["functionDeclarations"][0]["name"]
        part = {"functionCall": {"name": name, "args": {"n": 4}}}
    content = {"role": "model", "parts": [part]}
    return JSONResponse(
        {
            "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {
                "promptTokenCount": 9,
                "candidatesTokenCount": 4,
                "totalTokenCount": 13,
            },
            "modelVersion": "g",
            "responseId": "r1",
        }
    )


asked: list[Request] = []


class _Noted:
    """Remembers requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(Request(scope))
        await self._app(scope, receive, send)


APP = Starlette(
    middleware=[Middleware(_Noted)],
    routes=[
        Route("/v1/messages", anthropic, methods=["POST"]),
        Route("/v1beta/models/{rest:path}", google, methods=["POST"]),
    ],
)


@pytest.mark.parametrize("provider", ["anthropic", "google"])
async def test_text_structured_output_usage_and_a_rotated_key(provider: str) -> None:
    key = "right"
    async with serving(APP) as url:
        spec = {
            "provider": provider,
            "name": "claude-test" if provider == "anthropic" else "gemini-test",
            "baseURL": url,
            "apiKeySecretRef": {"name": "keys", "key": provider},
        }
        runtime = AgentRuntime(
            AgentSpec.model_validate(
                {"modelRef": {"name": "m"}, "modelSettings": {"maxTokens": 100}}
            ),
            "a",
            {"m": ModelSpec.model_validate(spec)},
            lambda model: key,
        )
        asked.clear()
        meter = UsageMeter(spans=CallSpans(ATTEMPT, f"00-{TRACE}-b7ad6b7169203331-01"))
        text = await runtime.run(ATTEMPT, "Hi", meter=meter, correlation_id="c-1")
        structured = await runtime.run("r.a.0.1.2", "Hi", output_schema=SCHEMA)
        key = "wrong"
        refused = await runtime.run("r.a.0.1.3", "Hi")
        await runtime.aclose()
    assert (text.output, text.error) == ("Hello.", None)
    assert structured.output == {"n": 4}
    [usage] = text.usage
    assert (usage.provider, usage.requests, usage.input_tokens, usage.output_tokens) == (
        provider,
        "1",
        "9",
        "4",
    )
    assert not usage.simulated
    [told] = meter.spans.model_calls
    assert (told.provider, told.response_id, told.finish_reason) == (
        provider,
        "msg_1" if provider == "anthropic" else "r1",
        "stop",
    )
    headers = asked[0].headers
    assert headers["traceparent"] == SpanRef(TRACE, told.span_id).traceparent
    assert headers["corral-correlation-id"] == "c-1"
    assert headers["corral-attempt-id"] == ATTEMPT
    assert "traceparent" not in asked[1].headers
    assert refused.error is not None
    assert refused.error.error_class is ErrorClass.AUTH
    assert "wrong" not in refused.error.message
