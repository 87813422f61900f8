"""The model server over real HTTP, mostly through the real openai client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from corral.modelserver.app import create_app
from corral.modelserver.rules import read_rules
from tests.unit.worker.serving import serving

USER = [{"role": "user", "content": "Plan a report on batteries."}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
    "required": ["items"],
}
TOOL = {"type": "function", "function": {"name": "answer", "parameters": SCHEMA}}


class Client:
    """The openai client, and plain HTTP for the rest."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url)
        self.openai = openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0)

    async def rules(self, rules: Any) -> httpx.Response:
        return await self.http.put("/rules", content=json.dumps(rules))

    async def ask(self, messages: Any = USER, **more: Any) -> Any:
        return await self.openai.chat.completions.create(model="m", messages=messages, **more)

    async def text(self, content: str = "hi", **more: Any) -> str:
        answer = await self.ask([{"role": "user", "content": content}], **more)
        found: str = answer.choices[0].message.content
        return found

    async def journal(self, **filters: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.http.get("/journal", params=filters)).json()[
            "requests"
        ]
        return found

    async def close(self) -> None:
        await self.http.aclose()
        await self.openai.close()


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving(create_app()) as url:
        client = Client(url)
        yield client
        await client.close()


async def test_tool_calls_end_with_a_result_unless_they_are_repeated(client: Client) -> None:
    rule = {"toolCalls": [{"name": "answer", "arguments": {"a": 1}}], "reply": "done"}
    result = {"role": "tool", "tool_call_id": "c", "content": "1"}
    for repeat in (False, True):
        await client.rules([{**rule, "repeatToolCalls": repeat}])
        for messages, called in ((USER, True), ([*USER, result], repeat)):
            message = (await client.ask(messages, tools=[TOOL])).choices[0].message
            assert bool(message.tool_calls) is called


async def test_without_rules_the_answer_echoes_the_question_and_is_marked(client: Client) -> None:
    answer = await client.ask()
    assert answer.choices[0].message.content == "A simulated answer to: Plan a report on batteries."
    assert answer.system_fingerprint == "simulated"
    assert answer.usage.prompt_tokens > 0
    assert (await client.http.get("/healthz")).headers["Corral-Simulated"] == "true"


async def test_a_schema_without_rules_gets_its_smallest_instance(client: Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert json.loads(await client.text(response_format=wanted)) == {"items": ["simulated"]}
    assert json.loads(await client.text(response_format={"type": "json_object"}))


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "answer"}}]
)
async def test_a_forced_tool_is_called_with_the_answer(client: Client, choice: Any) -> None:
    await client.rules(
        [{"match": "list", "json": ["a"]}, {"match": "object", "json": {"items": []}}]
    )
    for text, arguments in (("list", {"items": ["a"]}), ("object", {"items": []})):
        answer = await client.ask(
            [{"role": "user", "content": text}], tools=[TOOL], tool_choice=choice
        )
        [call] = answer.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("answer", arguments)
        assert answer.choices[0].finish_reason == "tool_calls"


async def test_tool_calls_are_asked_for_until_a_tool_has_answered(client: Client) -> None:
    call = {"name": "search", "arguments": {"q": "x"}}
    await client.rules([{"match": "find", "toolCalls": [call], "reply": "found it"}])
    question = {"role": "user", "content": "find"}
    first = await client.ask([question])
    [asked] = first.choices[0].message.tool_calls
    assert json.loads(asked.function.arguments) == {"q": "x"}
    result = {"role": "tool", "tool_call_id": asked.id, "content": "1"}
    second = await client.ask([question, first.choices[0].message.model_dump(), result])
    assert second.choices[0].message.content == "found it"


async def test_the_first_matching_rule_answers_and_times_use_it_up(client: Client) -> None:
    await client.rules(
        [
            {"match": "^a", "reply": "once", "times": 1},
            {"match": "^a", "model": "other", "reply": "never"},
            {"match": "system words", "search": "conversation", "reply": "conversation"},
            {"match": "^a", "reply": "after"},
        ]
    )
    assert [await client.text("a"), await client.text("a")] == ["once", "after"]
    messages = [{"role": "system", "content": "system words"}, {"role": "user", "content": "a"}]
    assert (await client.ask(messages)).choices[0].message.content == "conversation"


async def test_tokens_are_the_rules_or_estimated(client: Client) -> None:
    await client.rules([{"reply": "12345678", "inputTokens": 0}])
    usage = (await client.ask()).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (0, 2, 2)


async def test_a_stream_carries_text_and_usage(client: Client) -> None:
    await client.rules([{"reply": "a longer answer " * 5, "inputTokens": 3, "outputTokens": 9}])
    stream = await client.ask(stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "a longer answer " * 5
    assert len(chunks) > 4
    assert {chunk.system_fingerprint for chunk in chunks} == {"simulated"}
    assert chunks[-1].usage.total_tokens == 12


async def test_a_stream_carries_tool_calls(client: Client) -> None:
    stream = await client.ask(stream=True, tools=[TOOL], tool_choice="required")
    calls = [
        call
        async for chunk in stream
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    assert json.loads(calls[0].function.arguments) == {"items": ["simulated"]}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("RateLimit", openai.RateLimitError),
        ("Quota", openai.RateLimitError),
        ("ServerError", openai.InternalServerError),
        ("Garbage", ValueError),
        ("Drop", openai.APIConnectionError),
        ("Hang", openai.APITimeoutError),
    ],
)
async def test_faults_look_real(client: Client, fault: str, error: type[Exception]) -> None:
    await client.rules({"rules": [{"fault": fault}], "faults": {"retryAfterSeconds": 7}})
    with pytest.raises(error) as raised:
        await client.ask(timeout=0.3)
    if fault == "RateLimit":
        assert raised.value.response.headers["retry-after"] == "7"  # type: ignore[attr-defined]
    if fault == "Quota":
        assert raised.value.code == "insufficient_quota"  # type: ignore[attr-defined]
    assert [entry["outcome"] for entry in await client.journal()] == [fault]


async def test_fault_rates_are_drawn_from_seed_and_attempt(client: Client) -> None:
    async def outcomes(seed: int) -> list[str]:
        await client.rules({"seed": seed, "faults": {"serverErrorPercent": 40}})
        await client.http.delete("/journal")
        body = {"model": "m", "messages": USER}
        for n in range(60):
            headers = {"Corral-Attempt-ID": f"r.a.{n}.1.1"}
            await client.http.post("/v1/chat/completions", json=body, headers=headers)
        return [entry["outcome"] for entry in await client.journal()]

    first = await outcomes(1)
    assert first == await outcomes(1)
    assert first != await outcomes(2)
    assert 10 < first.count("ServerError") < 40


async def test_the_journal_names_attempts_and_can_be_filtered_and_cleared(client: Client) -> None:
    headers = {"Corral-Attempt-ID": "r.a.0.1.2", "Corral-Effect-Key": "r.a.0.1"}
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    of_run = {"Corral-Correlation-ID": "c1", "traceparent": traceparent}
    await client.ask(extra_headers={**headers, **of_run})
    await client.ask()
    [entry] = await client.journal(attemptID="r.a.0.1.2")
    assert entry["effectKey"] == "r.a.0.1"
    assert (entry["correlationID"], entry["traceparent"]) == ("c1", traceparent)
    assert entry["lastUser"] == "Plan a report on batteries."
    assert entry["inputTokens"] > 0
    assert len(await client.journal()) == 2
    assert "Bearer" not in (await client.http.get("/journal")).text
    await client.http.delete("/journal")
    assert await client.journal() == []


async def test_models_lists_the_rules_models_and_serves_any(client: Client) -> None:
    await client.rules({"models": ["fast", "slow"]})
    assert [model.id async for model in client.openai.models.list()] == ["fast", "slow"]


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param("[{match: '('}]", id="a broken expression"),
        pytest.param("[{replay: x}]", id="an unknown field"),
        pytest.param("rules: {", id="no YAML"),
        pytest.param("[{latency: soon}]", id="no duration"),
    ],
)
async def test_wrong_rules_are_refused_and_the_old_ones_stay(client: Client, rules: str) -> None:
    await client.rules([{"reply": "old"}])
    assert (await client.http.put("/rules", content=rules)).status_code == 400
    assert await client.text() == "old"


@pytest.mark.parametrize(
    "body", ["", "[]", '{"model": "m"}', '{"model": "m", "messages": []}', '{"messages": [1]}']
)
async def test_what_is_no_request_is_a_bad_request(client: Client, body: str) -> None:
    answer = await client.http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_key_can_be_required_and_health_stays_open() -> None:
    key: str | None = "k"
    async with serving(create_app(api_key=lambda: key)) as url:
        client = Client(url)
        assert await client.text()
        assert (await client.http.get("/journal")).status_code == 401
        assert (await client.http.get("/healthz")).status_code == 200
        key = "rotated"
        with pytest.raises(openai.AuthenticationError):
            await client.text()
        await client.close()


def test_rules_are_read_from_yaml() -> None:
    rules = read_rules("rules:\n- {match: a, json: null}\nlatency: 10ms\n")
    assert rules.rules[0].has_json
    assert rules.latency == "10ms"
    assert not read_rules("").rules
