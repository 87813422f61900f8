"""The tool server over real HTTP, through the protocol's own client; and as a process."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.types import CallToolResult

from corral.api.attempt import META_EFFECT_KEY
from corral.toolserver.app import create_app
from tests.unit.worker.serving import serving
from tests.unit.worker.tool_bench import tools


async def call(client: Client, name: str, **more: Any) -> CallToolResult:
    return await client.call_tool(name, more.pop("arguments", {}), **more)


async def test_its_tools_answer() -> None:
    async with tools() as server, Client(server.url) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == {"search", "add", "delete", "fail", "slow", "large"}
        added = await call(client, "add", arguments={"a": 2, "b": 3})
        assert added.structured_content == {"result": 5}
        found = await call(client, "search", arguments={"query": "Sodium batteries for the grid"})
        assert found.structured_content is not None
        titles = [one["title"] for one in found.structured_content["result"]]
        assert titles[0] == "Sodium-ion batteries"
        again = await call(client, "search", arguments={"query": "Sodium batteries for the grid"})
        assert again.structured_content == found.structured_content
        nothing = await call(client, "search", arguments={"query": "zebra"})
        assert nothing.structured_content == {"result": []}
        failed = await call(client, "fail", arguments={"message": "no paper"})
        assert failed.is_error


async def test_an_effect_key_makes_a_deletion_happen_once() -> None:
    async with tools() as server, Client(server.url) as client:
        for key in ("k1", "k1", "k2", None):
            meta: Any = {META_EFFECT_KEY: key} if key else None
            deleted = await call(client, "delete", arguments={"name": "x"}, meta=meta)
        assert deleted.structured_content == {"name": "x", "deletions": 3}
        made = await server.calls(tool="delete")
        assert [one["outcome"] for one in made] == ["Answered", "Repeated", "Answered", "Answered"]
        assert [one.get("effectKey") for one in made] == ["k1", "k1", "k2", None]


async def test_the_journal_names_the_span_that_the_caller_told() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    told: list[Any] = [{"traceparent": traceparent}, None]
    async with tools() as server, Client(server.url) as client:
        for meta in told:
            await call(client, "add", arguments={"a": 1, "b": 1}, meta=meta)
        assert [made.get("traceparent") for made in await server.calls()] == [traceparent, None]


async def test_the_journal_has_digests_of_headers_and_can_be_cleared() -> None:
    app = create_app(lambda: "t0ken")
    async with (
        app.router.lifespan_context(app),
        serving(app) as url,
        httpx.AsyncClient(headers={"Authorization": "Bearer t0ken"}) as http,
    ):
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "add", "arguments": {"a": 1, "b": 1}},
        }
        headers = {"Accept": "application/json, text/event-stream"}
        first = await http.post(
            f"{url}/mcp",
            json={
                "jsonrpc": "2.0",
                "id": 0,
                "method": "initialize",
                "params": {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {},
                    "clientInfo": {"name": "t", "version": "1"},
                },
            },
            headers=headers,
        )
        headers["Mcp-Session-Id"] = first.headers["Mcp-Session-Id"]
        assert (await http.post(f"{url}/mcp", json=body, headers=headers)).status_code == 200
        journal = (await http.get(f"{url}/journal")).text
        assert "authorization" in journal
        assert "t0ken" not in journal
        await http.delete(f"{url}/journal")
        assert (await http.get(f"{url}/journal")).json() == {"calls": []}
        wrong = await http.post(f"{url}/mcp", json=body, headers={"Authorization": "Bearer t"})
        assert wrong.status_code == 401


def test_it_runs_as_a_process_and_ends_on_sigterm(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    token = tmp_path / "token"
    token.write_text("right\n")
    program = "from corral.cli.main import main; raise SystemExit(main())"
    arguments = ["tool-server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--token-file", str(token)],
        stderr=subprocess.PIPE,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                assert httpx.get(f"{url}/healthz").text == "ok"
                break
            except httpx.TransportError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert httpx.post(f"{url}/mcp", json={}).status_code == 401
        authorization = {"Authorization": "Bearer right"}
        assert httpx.post(f"{url}/mcp", json={}, headers=authorization).status_code != 401
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert b"listens on port" in said
        assert b"right" not in said
    finally:
        process.kill()


@pytest.mark.parametrize("size", [0, 5, 100_000])
async def test_large_has_exactly_the_size_that_was_asked_for(size: int) -> None:
    async with tools() as server, Client(server.url) as client:
        [part] = (await call(client, "large", arguments={"size": size})).content
        assert len(part.text) == size  # type: ignore[union-attr]
