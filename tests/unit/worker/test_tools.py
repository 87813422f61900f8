"""Tools of Agents, against the real tool server, over the real protocol."""

import logging
import re
from typing import Any

import pytest

from corral.api.errors import ErrorClass
from corral.worker.attempts import AttemptTable
from corral.worker.outcome import AttemptOutcome
from tests.unit.worker.tool_bench import call, model_server, runtime, simulated, tools

ATTEMPT = "r.a.0.1.1"


def failure(outcome: AttemptOutcome, error_class: ErrorClass = ErrorClass.TOOL_FAILED) -> str:
    assert outcome.error is not None, outcome
    assert outcome.error.error_class is error_class, outcome.error
    return outcome.error.message


async def test_a_model_calls_a_tool_and_answers_from_its_result() -> None:
    rules = [{"match": "sum", "toolCalls": [call("add", a=1, b=2)], "reply": "It is 3."}]
    async with tools() as server, model_server(*rules) as models:
        agent = runtime(models, server.entry())
        outcome = await agent.run(ATTEMPT, "The sum?", correlation_id="c-1")
        await agent.aclose()
        assert (outcome.output, outcome.error) == ("It is 3.", None)
        assert outcome.usage[0].requests == "2"
        [made] = await server.calls()
    assert (made["tool"], made["arguments"], made["outcome"]) == (
        "add",
        {"a": 1, "b": 2},
        "Answered",
    )
    assert re.fullmatch(r"r\.a\.0\.1/add/[0-9a-f]{16}/1", made["effectKey"])
    assert (made["attemptID"], made["correlationID"]) == (ATTEMPT, "c-1")


async def test_a_simulated_model_calls_tools_first_and_every_call_of_it_counts_the_same() -> None:
    async with tools() as server:
        model = simulated(call("add", a=1, b=2), call("search", query="grid"), reply="both")
        outcome = await runtime({"fake": model}, server.entry()).run(ATTEMPT, "go")
        assert {made["tool"] for made in await server.calls()} == {"add", "search"}
    assert outcome.output == "both"
    [usage] = outcome.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == ("2", "100", "40")
    assert usage.simulated


async def test_the_same_call_twice_is_two_effects_and_a_retry_repeats_neither() -> None:
    async with tools() as server:
        twice = [call("delete", name="x"), call("delete", name="x")]
        agent = runtime({"fake": simulated(*twice)}, server.entry())
        for attempt in ("r.a.0.1.1", "r.a.0.1.2"):
            assert (await agent.run(attempt, "go")).output == "done"
        made = await server.calls()
    keys = sorted({one["effectKey"] for one in made})
    assert [key.rpartition("/")[2] for key in keys] == ["1", "2"]
    assert sorted(one["outcome"] for one in made) == 2 * ["Answered"] + 2 * ["Repeated"]


def test_ids_that_a_model_server_uses_again_are_told_apart() -> None:
    from pydantic_ai.messages import ModelResponse, ToolCallPart

    from corral.worker.toolset import _ordinal

    def answer(call_id: str, **arguments: int) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart("add", arguments, call_id)])

    told = [answer("call_0", a=1), answer("call_1", a=1), answer("call_0", a=2)]
    assert _ordinal(told, "add", {"a": 2}, "call_0") == 1
    assert _ordinal(told, "add", {"a": 1}, "call_1") == 2
    assert _ordinal([*told, answer("call_0", a=1)], "add", {"a": 1}, "call_0") == 3


async def test_a_tool_that_is_not_allowed_is_neither_shown_nor_called() -> None:
    async with tools() as server:
        model = simulated(call("delete", name="x"), reply="gave up")
        agent = runtime({"fake": model}, server.entry(allow=["search"]))
        outcome = await agent.run(ATTEMPT, "go")
        assert await server.calls() == []
    assert outcome.output == "gave up"


async def test_a_name_that_the_server_lacks_fails_the_attempt() -> None:
    async with tools() as server:
        for field in ("allow", "requireApproval"):
            agent = runtime({"fake": simulated()}, server.entry(**{field: ["delte"]}))
            message = failure(await agent.run(ATTEMPT, "go"))
            assert f"Tool library: {field} names 'delte'" in message


async def test_two_servers_with_the_same_tools_get_the_entrys_name_in_front() -> None:
    async with tools() as one, tools() as other:
        model = simulated(call("left_add", a=1, b=1), call("right_add", a=2, b=2), call("search"))
        agent = runtime(
            {"fake": model}, one.entry("left", allow=["add"]), other.entry("right", allow=["add"])
        )
        assert (await agent.run(ATTEMPT, "go")).output == "done"
        assert [made["arguments"]["a"] for made in await one.calls()] == [1]
        assert [made["arguments"]["a"] for made in await other.calls()] == [2]


async def test_a_tool_that_fails_is_told_to_the_model_which_goes_on() -> None:
    rules = [
        {"match": "no books today", "search": "conversation", "reply": "There are no books."},
        {"toolCalls": [call("fail", message="no books today")]},
    ]
    async with tools() as server, model_server(*rules) as models:
        agent = runtime(models, server.entry())
        outcome = await agent.run(ATTEMPT, "go")
        await agent.aclose()
    assert outcome.output == "There are no books."


@pytest.mark.parametrize("path", ["", "/nowhere", "/healthz"])
async def test_a_server_that_cant_be_used_fails_the_attempt_and_is_named(path: str) -> None:
    async with tools() as server:
        url = "http://127.0.0.1:1/mcp" if not path else server.url.removesuffix("/mcp") + path
        entry = {"name": "library", "mcp": {"url": url}}
        message = failure(await runtime({"fake": simulated()}, entry).run(ATTEMPT, "go"))
    assert message.startswith("Tool library: Its server")


async def test_a_tool_that_does_not_answer_in_time_fails_the_attempt() -> None:
    async with tools() as server:
        model = simulated(call("slow", seconds=30))
        agent = runtime({"fake": model}, server.entry(timeout="300ms"))
        assert failure(await agent.run(ATTEMPT, "go")) == (
            "Tool library: It did not answer within 0.3 s."
        )


async def test_an_attempts_timeout_ends_a_tool_call_too() -> None:
    async with tools() as server:
        agent = runtime({"fake": simulated(call("slow", seconds=30))}, server.entry())
        outcome = await agent.run(ATTEMPT, "go", timeout_seconds=0.5)
        assert failure(outcome, ErrorClass.TIMEOUT) == "The attempt took longer than 0.5 s."
        assert outcome.usage[0].requests == "1"


async def test_a_large_result_is_cut_off_with_a_mark() -> None:
    from corral.worker.tool_results import MAX_RESULT_BYTES, bounded

    rules = [
        {
            "match": r"\[Cut off: the result has 1000000 bytes",
            "search": "conversation",
            "reply": "too long",
        },
        {"toolCalls": [call("large", size=1_000_000)], "reply": "never"},
    ]
    async with tools() as server, model_server(*rules) as models:
        agent = runtime(models, server.entry())
        outcome = await agent.run(ATTEMPT, "go")
        await agent.aclose()
    assert outcome.output == "too long"
    assert int(outcome.usage[0].input_tokens) < 1.1 * MAX_RESULT_BYTES / 4
    assert bounded("é" * 10, 5).startswith("éé\n[Cut off: the result has 20 bytes")


async def test_what_does_not_fit_in_memory_is_not_read() -> None:
    async with tools() as server:
        agent = runtime({"fake": simulated(call("large", size=6_000_000))}, server.entry())
        assert "more than 4194304 bytes" in failure(await agent.run(ATTEMPT, "go"))


@pytest.mark.parametrize("limits", [{"maxToolCalls": 1}, {"maxTurns": 1}])
async def test_the_agents_limits_end_an_attempt(limits: dict[str, int]) -> None:
    async with tools() as server:
        model = simulated(call("add", a=1, b=1), call("add", a=2, b=2))
        agent = runtime({"fake": model}, server.entry(), limits=limits)
        message = failure(await agent.run(ATTEMPT, "go"), ErrorClass.INVALID_OUTPUT)
    assert next(iter(limits)) in message


async def test_an_agent_that_may_call_no_tool_calls_none() -> None:
    async with tools() as server:
        model = simulated(call("fail", message="no"))
        agent = runtime({"fake": model}, server.entry(), limits={"maxToolCalls": 0})
        message = failure(await agent.run(ATTEMPT, "go"), ErrorClass.INVALID_OUTPUT)
        assert await server.calls() == []
    assert "maxToolCalls 0" in message


@pytest.mark.parametrize(
    ("limits", "calls"), [({"maxToolCalls": 2}, 2), ({"maxTurns": 3}, 3), ({}, 10)]
)
async def test_calls_that_fail_count_as_well(limits: dict[str, int], calls: int) -> None:
    rule = {"toolCalls": [call("fail", message="no")], "repeatToolCalls": True}
    async with tools() as server, model_server(rule) as models:
        agent = runtime(models, server.entry(), limits=limits)
        failure(await agent.run(ATTEMPT, "go"), ErrorClass.INVALID_OUTPUT)
        await agent.aclose()
        assert len(await server.calls()) == calls


async def test_a_model_that_insists_on_a_tool_it_does_not_have_gives_no_answer() -> None:
    rule = {"toolCalls": [call("delete", name="x")], "repeatToolCalls": True}
    async with tools() as server, model_server(rule) as models:
        agent = runtime(models, server.entry(allow=["add"]))
        message = failure(await agent.run(ATTEMPT, "go"), ErrorClass.INVALID_OUTPUT)
        await agent.aclose()
        assert await server.calls() == []
    assert message == "Model real kept calling tools that it does not have, or wrongly."


async def test_an_answer_after_tools_fits_the_schema() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with tools() as server:
        model = simulated(call("add", a=1, b=2), reply='{"n": 3}')
        agent = runtime({"fake": model}, server.entry(), outputSchema=schema)
        outcome = await agent.run(ATTEMPT, "go")
    assert (outcome.output, outcome.structured) == ({"n": 3}, True)


async def test_a_rotated_header_needs_no_restart() -> None:
    token, value = "first-token", "Bearer first-token"
    header = {"name": "Authorization", "secretKeyRef": {"name": "s", "key": "k"}}
    async with tools(lambda: token) as server:
        agent = runtime(
            {"fake": simulated(call("add", a=1, b=2))},
            server.entry(headersFrom=[header]),
            headers=lambda tool, name: (
                value if (tool, name) == ("library", "Authorization") else ""
            ),
        )
        assert (await agent.run(ATTEMPT, "go")).output == "done"
        token = "second-token"
        assert "HTTP 401" in failure(await agent.run("r.a.0.1.2", "go"))
        value = "Bearer second-token"
        assert (await agent.run("r.a.0.1.3", "go")).output == "done"
        digests = [made["headerDigests"]["authorization"] for made in await server.calls()]
    assert len(set(digests)) == 2


@pytest.mark.parametrize("value", ["Bearer s3cret-s3cret", "s3cret\x00s3cret", "s3cret\ns3cret"])
async def test_a_headers_value_is_never_shown(value: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    header = {"name": "X-Key", "secretKeyRef": {"name": "s", "key": "k"}}
    async with tools(lambda: "another") as server:
        for url in (server.url, "http://127.0.0.1:1/mcp"):
            entry = {"name": "library", "mcp": {"url": url, "headersFrom": [header]}}
            agent = runtime({"fake": simulated()}, entry, headers=lambda tool, name: value)
            assert "s3cret" not in failure(await agent.run(ATTEMPT, "go"))
    assert "s3cret" not in caplog.text


async def test_a_server_that_echoes_a_header_does_not_tell_the_model() -> None:
    header = {"name": "X-Key", "secretKeyRef": {"name": "s", "key": "k"}}
    rules = [
        {"match": r"\[redacted\]", "search": "conversation", "reply": "hidden"},
        {"toolCalls": [call("fail", message="You sent s3cret-s3cret.")], "reply": "shown"},
    ]
    async with tools() as server, model_server(*rules) as models:
        agent = runtime(
            models,
            server.entry(headersFrom=[header]),
            headers=lambda tool, name: "Key s3cret-s3cret",
        )
        outcome = await agent.run(ATTEMPT, "go")
        await agent.aclose()
    assert outcome.output == "hidden"


async def test_a_missing_header_names_the_secret() -> None:
    header = {"name": "X-Key", "secretKeyRef": {"name": "s", "key": "k"}}
    async with tools() as server:
        agent = runtime({"fake": simulated()}, server.entry(headersFrom=[header]))
        message = failure(await agent.run(ATTEMPT, "go"))
    assert message.startswith("Tool library has no header X-Key: Secret s has no key k")


async def test_a_cancelled_attempt_leaves_no_task_behind() -> None:
    import asyncio

    async with tools() as server:
        agent = runtime({"fake": simulated(call("slow", seconds=30))}, server.entry())
        table = AttemptTable(1)
        before = asyncio.all_tasks()
        attempt = table.start(ATTEMPT, lambda meter: agent.run(ATTEMPT, "go", meter=meter))
        while not attempt.meter.usage():
            await asyncio.sleep(0.01)
        table.cancel(ATTEMPT)
        await attempt.ended.wait()
        assert attempt.state == "CANCELED"
        await asyncio.sleep(0.1)
        left = {task for task in asyncio.all_tasks() - before if "worker" in repr(task)}
    assert not left
