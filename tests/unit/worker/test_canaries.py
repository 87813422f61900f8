"""Servers that send back what they were sent: keys and headers get no further."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from corral.telemetry.logs import JsonFormatter
from corral.worker.app import Worker
from corral.worker.redaction import Redaction
from tests.unit.worker.bench import UID, Operator, config, working
from tests.unit.worker.serving import serving
from tests.unit.worker.tool_bench import tools

KEY = "sk-canary/3f9a+1c77=e0"
HEADER = "Bearer header-canary-77aa10"
CANARIES = (KEY, quote(KEY, safe=""), "header-canary-77aa10")


def answer(message: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def asked_for_tool(arguments: str) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    calls = [{"id": arguments[:40], "type": "function", "function": function}]
    return answer({"content": None, "tool_calls": calls})


ECHOES = {
    "the answer": lambda key: JSONResponse(answer({"content": f"you sent {key}"})),
    "the answer, as in a URL": lambda key: JSONResponse(
        answer({"content": f"?key={quote(key, safe='')}"})
    ),
    "a structured answer": lambda key: JSONResponse(
        answer({"content": json.dumps({"a": [key], key: 1})})
    ),
    "a tool call": lambda key: JSONResponse(asked_for_tool(json.dumps({"a": key, "b": 1}))),
    "a tool call that is no JSON": lambda key: JSONResponse(asked_for_tool("{" + key)),
    "a body that is no JSON": lambda key: PlainTextResponse(key),
    "a body that is no completion": lambda key: JSONResponse({"choices": key}),
    **{
        f"an error {status}": lambda key, status=status: JSONResponse(
            {"error": {"message": f"Incorrect API key provided: {key}.", "code": key}}, status
        )
        for status in (400, 401, 402, 403, 404, 408, 418, 422, 429, 500, 503)
    },
    "an error in plain text": lambda key: PlainTextResponse(f"bad key {key}", 400),
    "an error with a list": lambda key: JSONResponse([{"message": key}], 400),
    "an error in a header": lambda key: JSONResponse(
        {"error": {"message": "see header"}}, 400, headers={"x-key": key}
    ),
    "a redirect": lambda key: Response(
        status_code=307, headers={"location": f"/?key={quote(key)}"}
    ),
}


@asynccontextmanager
async def hostile(how: str, **changes: Any) -> AsyncIterator[Operator]:
    """A worker whose Model's server sends the key back."""

    async def echo(request: Request) -> Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        assert key == KEY, "the canary did not arrive"
        return ECHOES[how](key)

    app = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"])])
    async with serving(app) as url:
        model = {
            "provider": "openai",
            "name": "m",
            "baseURL": f"{url}/v1",
            "apiKeySecretRef": {"name": "s", "key": "k"},
            "simulation": None,
        }
        async with working(lambda name: KEY, model=model, **changes) as operator:
            yield operator
            await operator.worker.runtime.aclose()


def clean(*texts: str) -> None:
    for text in texts:
        for canary in CANARIES:
            assert canary not in text


def logged(caplog: pytest.LogCaptureFixture, hidden: Redaction) -> str:
    """What a worker's log would have been, exceptions included."""
    formatter = JsonFormatter(hidden.text)
    return "\n".join(
        formatter.format(record) for record in caplog.records if record.name.startswith("corral")
    )


@pytest.mark.parametrize("how", ECHOES)
async def test_a_key_that_a_model_server_sends_back_is_not_told(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    schema = {"outputSchema": '{"type":"object"}'} if how == "a structured answer" else {}
    async with hostile(how) as operator:
        sent = await operator.send("r.a.0.1.1", **schema)
        assert sent.status_code == 200
        metrics = await operator.client.get("/metrics")
        clean(sent.text, metrics.text, json.dumps(await operator.inventory()))
        clean(logged(caplog, operator.worker.runtime.hidden()))
        task = sent.json()["task"]
    if how.startswith("the answer"):
        assert "[redacted]" in task["artifacts"][0]["parts"][0]["text"]
    if how == "a structured answer":
        assert task["artifacts"][0]["parts"][0]["data"] == {"a": ["[redacted]"], "[redacted]": 1}


async def test_a_key_in_a_tool_call_reaches_neither_the_tool_nor_the_approval() -> None:
    async with tools() as server:
        guarded = {"agent": {"tools": [server.entry(requireApproval=["add"])]}}
        async with hostile("a tool call", **guarded) as operator:
            sent = await operator.send("r.a.0.1.1")
            required = sent.json()["task"]["metadata"]
        assert "[redacted]" in sent.text
        clean(sent.text, _unpacked(required))
        open_to_all = {"agent": {"tools": [server.entry()], "limits": {"maxTurns": 2}}}
        async with hostile("a tool call", **open_to_all) as operator:
            await operator.send("r.a.0.1.2")
        calls = await server.calls()
        assert calls
        clean(json.dumps(calls))


def _unpacked(metadata: dict[str, Any]) -> str:
    """The conversation that waits for the approval, as text."""
    import base64
    import zlib

    [extension] = metadata.values()
    packed = extension["inputRequired"]["conversation"].partition(":")[2]
    return zlib.decompress(base64.b64decode(packed)).decode()


async def test_a_header_that_a_tool_server_sends_back_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def echo(request: Request) -> Response:
        said = await request.json()
        header = request.headers["authorization"]
        if "id" not in said:
            return Response(status_code=202)
        result: dict[str, Any] = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": header, "version": "1"},
        }
        if said["method"] == "tools/list":
            listed = {"name": "add", "description": header, "inputSchema": {"type": "object"}}
            result = {"tools": [listed, {**listed, "name": f"tool-{header[7:]}"}]}
        if said["method"] == "tools/call":
            result = {"content": [{"type": "text", "text": f"you sent {header}"}]}
        return JSONResponse({"jsonrpc": "2.0", "id": said["id"], "result": result})

    script = [{"match": "", "reply": "done", "toolCalls": [{"name": "add", "arguments": {}}]}]
    async with serving(Starlette(routes=[Route("/mcp", echo, methods=["POST"])])) as url:
        secret = {"name": "Authorization", "secretKeyRef": {"name": "s", "key": "k"}}
        for allow in (["add"], ["missing"]):
            mcp = {"url": f"{url}/mcp", "headersFrom": [secret], "allow": allow}
            given = config(
                agent={"tools": [{"name": "library", "mcp": mcp}]}, simulation={"script": script}
            )
            worker = Worker(given, UID, lambda name: None, headers=lambda tool, name: HEADER)
            async with serving(worker.app()) as address:
                import httpx

                async with httpx.AsyncClient(base_url=address, timeout=20) as client:
                    operator = Operator(worker, address, client)
                    sent = await operator.send("r.a.0.1.1")
                    metrics = await client.get("/metrics")
            assert sent.status_code == 200
            assert ("add" in allow) == ("COMPLETED" in sent.text)
            clean(sent.text, metrics.text, logged(caplog, worker.runtime.hidden()))


def test_what_a_log_line_quotes_is_left_out() -> None:
    """Libraries quote headers in their complaints, and tracebacks quote libraries."""
    token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwcyJ9.c2lnbmF0dXJlLXg"
    try:
        raise ValueError(f"illegal header value b'Bearer {KEY}'")
    except ValueError as error:
        information = (ValueError, error, error.__traceback__)
    message = f"called with {token}"
    record = logging.LogRecord("corral", 40, "f", 1, message, None, information)
    record.address = f"http://x?key={KEY}"
    line = JsonFormatter(Redaction([KEY]).text).format(record)
    clean(line)
    assert token not in line
    assert "illegal header value" in line


def test_all_of_a_models_answer_is_searched() -> None:
    response = ModelResponse(
        parts=[
            TextPart(KEY),
            ThinkingPart(content=KEY, signature=KEY, provider_details={"k": [KEY]}),
            ToolCallPart(tool_name=KEY, args={"a": {KEY: KEY}}, tool_call_id=KEY),
        ],
        model_name=KEY,
        provider_details={"a": KEY},
        provider_response_id=KEY,
    )
    assert KEY not in repr(Redaction([KEY]).response(response))


@pytest.mark.parametrize(
    ("secret", "text", "shown"),
    [
        ("Bearer abcdefgh", "abcdefgh and Bearer abcdefgh", "[redacted] and [redacted]"),
        ("short", "short", "short"),
        ("", "", ""),
        (None, "None", "None"),
        ("a b/c&defg", "b%2Fc%26defg", "[redacted]"),
    ],
)
def test_parts_of_secrets_are_secrets_unless_they_are_short(
    secret: str | None, text: str, shown: str
) -> None:
    assert Redaction([secret]).text(text) == shown
