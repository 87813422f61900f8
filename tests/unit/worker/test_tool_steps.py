"""Tool calls without a model: what a worker does for a ``tool`` step."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from corral.api.agent import AgentSpec
from corral.api.attempt import ToolInvocation
from corral.api.errors import ErrorClass
from corral.worker.outcome import AttemptOutcome
from corral.worker.runtime import AgentRuntime
from corral.worker.tool_server import refused_url
from tests.unit.worker.serving import serving
from tests.unit.worker.tool_bench import tools

ATTEMPT = "r.a.0.1.1"


def runner() -> AgentRuntime:
    return AgentRuntime(AgentSpec(), "corral-tools", {}, lambda model: None)


async def invoke(url: str, name: str, arguments: str = "{}", **more: Any) -> AttemptOutcome:
    tool = ToolInvocation(url=url, name=name, arguments=arguments)
    return await runner().run(ATTEMPT, tool=tool, **more)


def failure(outcome: AttemptOutcome, error_class: ErrorClass = ErrorClass.TOOL_FAILED) -> str:
    assert outcome.error is not None
    assert outcome.error.error_class is error_class
    return outcome.error.message


async def test_structured_content_is_the_output_as_it_is() -> None:
    async with tools() as server:
        outcome = await invoke(server.url, "add", '{"a": 1, "b": 2}', correlation_id="c-1")
        [made] = await server.calls()
    assert (outcome.output, outcome.structured, outcome.usage) == ({"result": 3}, True, [])
    assert made["effectKey"].startswith("r.a.0.1/add/")
    assert made["correlationID"] == "c-1"


async def test_text_stays_text() -> None:
    async with tools() as server:
        outcome = await invoke(server.url, "large", '{"size": 10}')
    assert (outcome.output, outcome.structured) == ("0123456789", False)


async def test_a_retry_of_a_step_has_no_second_effect() -> None:
    async with tools() as server:
        for attempt in ("r.a.0.1.1", "r.a.0.1.2"):
            tool = ToolInvocation(url=server.url, name="delete", arguments='{"name": "x"}')
            outcome = await runner().run(attempt, tool=tool)
            assert outcome.output == {"name": "x", "deletions": 1}
        assert [made["outcome"] for made in await server.calls()] == ["Answered", "Repeated"]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        pytest.param("fail", '{"message": "no paper"}', "no paper", id="the tool says so"),
        pytest.param("nothing", "{}", "Unknown tool", id="there is no such tool"),
        pytest.param("add", '{"a": "x", "b": 1}', "validation error", id="wrong arguments"),
    ],
)
async def test_a_tool_that_fails_fails_the_attempt(name: str, arguments: str, words: str) -> None:
    async with tools() as server:
        message = failure(await invoke(server.url, name, arguments))
    assert message.startswith(f"Tool {name}: ")
    assert words in message


async def test_a_server_that_is_not_there_fails_the_attempt() -> None:
    message = failure(await invoke("http://127.0.0.1:1/mcp", "add"))
    assert message == "Tool add: Its server at 127.0.0.1 can't be reached (ConnectError)."


async def test_a_server_that_ends_while_it_is_called_fails_the_attempt() -> None:
    async def cut_off(request: Request) -> Response:
        body = await request.json()
        if body["method"] == "tools/call":
            return _Cut()
        return PlainTextResponse("no", 404)

    class _Cut(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"99")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})

    async with tools() as server:
        real = server.url
        app = Starlette(routes=[Route("/mcp", _Forward(real, cut_off), methods=["POST", "GET"])])
        async with serving(app) as url:
            message = failure(await invoke(f"{url}/mcp", "add", '{"a": 1, "b": 2}'))
    assert message.startswith("Tool add: Its server at 127.0.0.1 can't be reached")


class _Forward:
    """Forwards everything but calls of tools."""

    def __init__(self, url: str, on_call: Any) -> None:
        self._url = url
        self._on_call = on_call

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        import httpx

        request = Request(scope, receive)
        body = await request.body()
        if b'"tools/call"' in body:
            answer = await self._on_call(Request(scope, _again(body)))
        else:
            async with httpx.AsyncClient() as client:
                kept = {
                    name: value
                    for name, value in request.headers.items()
                    if name not in ("host", "content-length")
                }
                got = await client.request(
                    request.method, self._url, content=body, headers=kept, timeout=5
                )
            answer = Response(got.content, got.status_code, media_type=got.headers["content-type"])
        await answer(scope, receive, send)


def _again(body: bytes) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def test_a_redirect_to_another_host_is_not_followed() -> None:
    async with tools() as server:
        to = server.url

        async def elsewhere(request: Request) -> Response:
            return RedirectResponse(to, 307)

        app = Starlette(routes=[Route("/mcp", elsewhere, methods=["POST"])])
        async with serving(app) as url:
            message = failure(await invoke(f"{url}/mcp", "add", '{"a": 1, "b": 2}'))
        assert await server.calls() == []
    assert "Redirect" in message


@pytest.mark.parametrize("arguments", ["[1]", "no JSON", "", '{"a": NaN}'])
async def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    outcome = await invoke("http://127.0.0.1:1/mcp", "add", arguments)
    assert "not a JSON object" in failure(outcome, ErrorClass.REJECTED)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://files/mcp",
        "http://",
        "http://user:word@server/mcp",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/mcp",
        "http://server:port/mcp",
    ],
)
async def test_some_addresses_are_refused(url: str) -> None:
    assert failure(await invoke(url, "add")).startswith("Tool add: Its URL")


@pytest.mark.parametrize("url", ["http://search.demo.svc/mcp", "https://10.0.0.7:8443/mcp"])
def test_others_are_not(url: str) -> None:
    assert refused_url(url) is None


async def test_a_runner_of_tools_is_ready_and_asks_no_model() -> None:
    assert runner().problem() is None
    runner().warm_up()
    assert failure(await runner().run(ATTEMPT, "go"), ErrorClass.INTERNAL) == (
        "Agent corral-tools has no modelRef: it can only call tools."
    )
