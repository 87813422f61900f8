"""Tools over a worker's wire: approvals, tool steps, headers, caps."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.worker.app import Worker
from corral.worker.headers import FileHeaders
from tests.unit.worker.bench import UID, config, report, rpc, working
from tests.unit.worker.tool_bench import Tools, call, simulated, tools

FIRST, SECOND = "r.a.0.1.1", "r.a.0.1.2"
MODEL = simulated(call("delete", name="x"), reply="all done")


def agent(server: Tools, **mcp: Any) -> dict[str, Any]:
    return {"agent": {"tools": [server.entry(**mcp)]}, "simulation": MODEL["simulation"]}


def task(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["task"]
    return found


async def test_an_approval_takes_two_attempts_on_two_workers() -> None:
    async with tools() as server:
        guarded = agent(server, requireApproval=["delete"])
        async with working(**guarded) as operator:
            waiting = task(await operator.send(FIRST))
            assert waiting["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
            [part] = waiting["status"]["message"]["parts"]
            assert part["text"] == 'A person has to approve: delete with {"name":"x"}'
            required = report(waiting)["inputRequired"]
            [listed] = (await operator.inventory())["attempts"]
            assert listed["state"] == "INPUT_REQUIRED"
            assert operator.worker.table.unacked == 1
            assert operator.worker.table.free == 4
            again = task(await operator.send(FIRST))
            assert report(again)["inputRequired"] == required
            await operator.ack(FIRST)
            assert operator.worker.table.idle
            assert operator.worker.table.unacked_bytes == 0
        assert await server.calls() == []
        decisions = [{"callID": one["callID"], "approved": True} for one in required["calls"]]
        async with working(**guarded) as operator:
            done = task(
                await operator.send(
                    SECOND, conversation=required["conversation"], decisions=decisions
                )
            )
        assert done["status"]["state"] == "TASK_STATE_COMPLETED"
        assert done["artifacts"][0]["parts"][0]["text"] == "all done"
        assert [made["tool"] for made in await server.calls()] == ["delete"]


async def test_a_plain_client_sees_what_has_to_be_approved() -> None:
    async with tools() as server, working(**agent(server, requireApproval=["delete"])) as operator:
        message = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "go"}]}
        headers = {
            "Authorization": operator.headers["Authorization"],
            "A2A-Version": "1.0",
            "Content-Type": "application/json",
        }
        answer = await operator.client.post(
            "/", content=rpc("SendMessage", {"message": message}), headers=headers
        )
        found = answer.json()["result"]["task"]
    assert found["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert "delete" in found["status"]["message"]["parts"][0]["text"]


async def test_a_conversation_above_the_outputs_limit_fails_the_attempt() -> None:
    async with tools() as server, working(**agent(server, requireApproval=["delete"])) as operator:
        failed = task(await operator.send(FIRST, maxOutputBytes="100"))
    assert failed["status"]["state"] == "TASK_STATE_FAILED"
    assert "conversation until the approval" in report(failed)["error"]["message"]


async def test_a_worker_without_a_model_serves_tool_calls_and_nothing_else() -> None:
    async with (
        tools() as server,
        working(agentName="corral-tools", agent={"modelRef": None}, models={}) as operator,
    ):
        assert (await operator.client.get("/readyz")).status_code == 200
        tool = {"url": server.url, "name": "add", "arguments": '{"a": 1, "b": 2}'}
        done = task(await operator.send(FIRST, None, tool=tool))
        assert done["artifacts"][0]["parts"][0]["data"] == {"result": 3}
        assert report(done)["usage"] == []
        refused = report(task(await operator.send(SECOND)))["error"]
    assert refused["errorClass"] == "Internal"
    assert "can only call tools" in refused["message"]


async def test_caps_and_the_first_model_come_with_the_request() -> None:
    models = {"fast": {"provider": "simulated"}, "cheap": simulated(reply="cheap")}
    fallbacks = {"fallbackModels": [{"modelRef": {"name": "cheap"}}]}
    async with working(agent=fallbacks, models=models) as operator:
        done = task(await operator.send(FIRST, modelRef="cheap", maxTokens="70"))
        assert done["artifacts"][0]["parts"][0]["text"] == "cheap"
        assert [used["modelRef"] for used in report(done)["usage"]] == ["cheap"]
        capped = report(task(await operator.send(SECOND, maxCostUSD="0")))
        assert capped["error"]["errorClass"] == "Budget"
        for wrong in ({"maxTokens": "many"}, {"maxCostUSD": "1 USD"}, {"maxCostUSD": "NaN"}):
            assert (await operator.send("r.a.0.1.9", **wrong)).status_code == 400


def test_headers_are_read_from_files_and_a_missing_one_is_told(tmp_path: Path) -> None:
    header = {"name": "X-Key", "secretKeyRef": {"name": "s", "key": "k"}}
    mcp = {"url": "http://server/mcp", "headersFrom": [header]}
    given = config(agent={"tools": [{"name": "library", "mcp": mcp}]})
    headers = FileHeaders(str(tmp_path))
    worker = Worker(given, UID, lambda model: None, headers=headers)
    assert worker.problem() == (
        "Tool library has no header X-Key: Secret s has no key k, or it is not mounted yet."
    )
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "X-Key").write_text("value\n")
    assert worker.problem() is None
    assert headers("library", "X-Key") == "value"


@pytest.mark.parametrize("missing", ["fast", "cheap"])
def test_a_worker_whose_fallback_has_no_key_is_not_ready(missing: str) -> None:
    reference = {"name": "s", "key": "k"}
    model = {"provider": "openai", "name": "m", "apiKeySecretRef": reference}
    given = config(
        agent={"fallbackModels": [{"modelRef": {"name": "cheap"}}]},
        models={"fast": model, "cheap": model},
    )
    worker = Worker(given, UID, lambda name: None if name == missing else "key")
    assert f"Model {missing} has no API key" in (worker.problem() or "")
