"""The runtime against the model server, through the real openai client."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.modelserver.app import create_app
from corral.modelserver.rules import RuleSet
from corral.worker.outcome import UsageMeter
from corral.worker.runtime import AgentRuntime
from tests.unit.worker.serving import serving

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1}},
    "required": ["score"],
}
LIST_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 2}
TREE_SCHEMA: dict[str, Any] = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
            "required": ["children"],
        }
    },
    "$ref": "#/$defs/Node",
}


@dataclass
class Bench:
    """A model server, and an agent that talks to it."""

    url: str
    key: str | None = "right"
    keys_read: int = 0
    runtimes: list[AgentRuntime] = field(default_factory=list)

    async def rules(self, *rules: dict[str, Any], **more: Any) -> None:
        async with self.client() as client:
            answer = await client.put("/rules", json={"rules": list(rules), **more})
            assert answer.status_code == 200, answer.text

    async def journal(self, **filters: str) -> list[dict[str, Any]]:
        async with self.client() as client:
            return (await client.get("/journal", params=filters)).json()["requests"]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": "Bearer right"})

    def runtime(self, model: dict[str, Any] | None = None, **agent: Any) -> AgentRuntime:
        spec = {
            "provider": "openai",
            "name": "gpt-test",
            "baseURL": f"{self.url}/v1",
            "apiKeySecretRef": {"name": "model-keys", "key": "openai"},
            **(model or {}),
        }
        runtime = AgentRuntime(
            AgentSpec.model_validate(
                {"instructions": "Be brief.", "modelRef": {"name": "fast"}, **agent}
            ),
            "researcher",
            {"fast": ModelSpec.model_validate(spec)},
            self._key,
        )
        self.runtimes.append(runtime)
        return runtime

    def _key(self, model: str) -> str | None:
        assert model == "fast"
        self.keys_read += 1
        return self.key


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with serving(create_app(RuleSet(), lambda: "right")) as url:
        bench = Bench(url)
        yield bench
        for runtime in bench.runtimes:
            await runtime.aclose()


async def test_text_comes_back_with_its_usage_marked_as_simulated(bench: Bench) -> None:
    await bench.rules(
        {"match": "batteries", "reply": "They store.", "inputTokens": 7, "outputTokens": 3}
    )
    outcome = await bench.runtime().run("r.plan.0.1.1", input="About batteries.")
    assert (outcome.output, outcome.structured, outcome.error) == ("They store.", False, None)
    [usage] = outcome.usage
    assert usage.to_json() == {
        "modelRef": "fast",
        "provider": "openai",
        "model": "gpt-test",
        "requests": "1",
        "inputTokens": "7",
        "outputTokens": "3",
        "cachedInputTokens": "0",
        "unanswered": "0",
        "simulated": True,
        "answered": True,
        "failures": "0",
    }


async def test_a_model_call_carries_attempt_effect_key_and_correlation_id(bench: Bench) -> None:
    await bench.runtime().run("r.plan.0.1.2", input="x", correlation_id="c-1")
    [entry] = await bench.journal()
    assert entry["attemptID"] == "r.plan.0.1.2"
    assert entry["effectKey"] == "r.plan.0.1"
    assert entry["correlationID"] == "c-1"


async def test_a_correlation_id_that_is_no_header_value_is_left_out(bench: Bench) -> None:
    outcome = await bench.runtime().run("r.a.0.1.1", input="x", correlation_id="größe\nx")
    assert outcome.error is None
    assert "correlationID" not in (await bench.journal())[0]


async def test_input_data_reaches_the_model_as_compact_json(bench: Bench) -> None:
    await bench.runtime().run("r.a.0.1.1", input="Rate:", input_data={"a": [1, 2], "b": "é"})
    assert (await bench.journal())[0]["lastUser"] == 'Rate:\n\n{"a":[1,2],"b":"é"}'


@pytest.mark.parametrize(
    ("schema", "rule", "expected"),
    [
        pytest.param(SCHEMA, {"json": {"score": 5}}, {"score": 5}, id="an object"),
        pytest.param(SCHEMA, {"reply": '{"score": 5}'}, {"score": 5}, id="a reply that is JSON"),
        pytest.param(
            LIST_SCHEMA, {"json": ["a", "b"]}, ["a", "b"], id="an array is wrapped for the tool"
        ),
        pytest.param(SCHEMA, {}, {"score": 1}, id="the default answer is the smallest instance"),
        pytest.param(
            TREE_SCHEMA,
            {"json": {"children": [{"children": []}]}},
            {"children": [{"children": []}]},
            id="a recursive schema",
        ),
        pytest.param({"type": "string"}, {"json": "x"}, "x", id="a string"),
    ],
)
async def test_structured_output_is_asked_for_as_a_tool_call(
    bench: Bench, schema: dict[str, Any], rule: dict[str, Any], expected: Any
) -> None:
    await bench.rules(rule)
    outcome = await bench.runtime().run("r.a.0.1.1", input="Score it.", output_schema=schema)
    assert outcome.error is None
    assert outcome.output == expected
    assert outcome.structured
    assert outcome.usage[0].requests == "1"


async def test_a_step_schema_replaces_the_agents(bench: Bench) -> None:
    runtime = bench.runtime(outputSchema=SCHEMA)
    assert (await runtime.run("r.a.0.1.1", input="x")).output == {"score": 1}
    assert (await runtime.run("r.a.0.1.2", input="x", output_schema=LIST_SCHEMA)).output == [
        "simulated"
    ] * 2


async def test_an_answer_that_does_not_fit_is_asked_for_again_with_the_reason(bench: Bench) -> None:
    await bench.rules(
        {"json": {"score": 0}, "times": 1, "outputTokens": 5},
        {
            "match": "less than the minimum",
            "search": "conversation",
            "json": {"score": 2},
            "outputTokens": 5,
        },
        {"json": {"score": "never"}},
    )
    outcome = await bench.runtime().run("r.a.0.1.1", input="x", output_schema=SCHEMA)
    assert outcome.output == {"score": 2}
    assert (outcome.usage[0].requests, outcome.usage[0].output_tokens) == ("2", "10")


async def test_an_answer_that_never_fits_is_invalid_output_after_three_re_asks(
    bench: Bench,
) -> None:
    await bench.rules({"json": {"score": 0}})
    outcome = await bench.runtime().run("r.a.0.1.1", input="x", output_schema=SCHEMA)
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.INVALID_OUTPUT
    assert "0 is less than the minimum of 1" in outcome.error.message
    assert outcome.usage[0].requests == "4"


async def test_prose_instead_of_json_is_asked_for_again(bench: Bench) -> None:
    await bench.rules({"reply": "Gladly!", "times": 1}, {"reply": '```json\n{"score": 3}\n```'})
    outcome = await bench.runtime().run("r.a.0.1.1", input="x", output_schema=SCHEMA)
    assert outcome.output == {"score": 3}
    assert outcome.usage[0].requests == "2"


async def test_re_asks_count_against_max_turns(bench: Bench) -> None:
    await bench.rules({"json": {"score": 0}})
    runtime = bench.runtime(limits={"maxTurns": 2})
    outcome = await runtime.run("r.a.0.1.1", input="x", output_schema=SCHEMA)
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.INVALID_OUTPUT
    assert "maxTurns 2" in outcome.error.message
    assert outcome.usage[0].requests == "2"


@pytest.mark.parametrize(
    ("fault", "error_class"),
    [
        ("RateLimit", ErrorClass.RATE_LIMITED),
        ("Quota", ErrorClass.QUOTA),
        ("ServerError", ErrorClass.MODEL_UNAVAILABLE),
        ("Garbage", ErrorClass.INVALID_OUTPUT),
        ("Drop", ErrorClass.MODEL_UNAVAILABLE),
    ],
)
async def test_a_failed_call_has_its_error_class_and_is_not_retried_by_the_client(
    bench: Bench, fault: str, error_class: ErrorClass
) -> None:
    await bench.rules({"fault": fault})
    outcome = await bench.runtime().run("r.a.0.1.1", input="x")
    assert outcome.error is not None
    assert outcome.error.error_class is error_class
    assert "fast" in outcome.error.message
    assert [entry["outcome"] for entry in await bench.journal()] == [fault]
    assert outcome.usage[0].requests == "1"
    assert outcome.usage[0].output_tokens == "0"


async def test_a_model_that_hangs_is_unavailable_after_the_models_timeout(bench: Bench) -> None:
    await bench.rules({"fault": "Hang"})
    outcome = await bench.runtime(model={"timeout": "200ms"}).run("r.a.0.1.1", input="x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.MODEL_UNAVAILABLE
    assert "200ms" in outcome.error.message
    assert (outcome.usage[0].requests, outcome.usage[0].unanswered) == ("1", "1")


async def test_no_server_at_all_is_model_unavailable(bench: Bench) -> None:
    runtime = bench.runtime(model={"baseURL": "http://127.0.0.1:9/v1"})
    outcome = await runtime.run("r.a.0.1.1", input="x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.MODEL_UNAVAILABLE
    assert not outcome.usage[0].simulated
    assert outcome.usage[0].unanswered == "1"


async def test_the_attempts_timeout_keeps_the_usage_until_then(bench: Bench) -> None:
    await bench.rules(
        {"json": {"score": 0}, "times": 1, "inputTokens": 11, "outputTokens": 5}, {"fault": "Hang"}
    )
    runtime = bench.runtime()
    await runtime.run("r.w.0.1.1", input="warm")
    await bench.rules(
        {"json": {"score": 0}, "times": 1, "inputTokens": 11, "outputTokens": 5}, {"fault": "Hang"}
    )
    outcome = await runtime.run("r.a.0.1.1", input="x", output_schema=SCHEMA, timeout_seconds=1.0)
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.TIMEOUT
    [usage] = outcome.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == ("2", "11", "5")
    assert (usage.simulated, usage.unanswered) == (True, "1")


async def test_a_failure_after_an_answered_call_keeps_that_calls_usage(bench: Bench) -> None:
    await bench.rules({"json": {}, "times": 1, "inputTokens": 11}, {"fault": "ServerError"})
    outcome = await bench.runtime().run("r.a.0.1.1", input="x", output_schema=SCHEMA)
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.MODEL_UNAVAILABLE
    assert (outcome.usage[0].requests, outcome.usage[0].input_tokens) == ("2", "11")
    assert outcome.usage[0].unanswered == "0", "a refusal is an answer, and not billed"


async def test_a_cancelled_attempt_leaves_its_usage_in_the_meter(bench: Bench) -> None:
    await bench.rules({"fault": "Hang"})
    meter = UsageMeter()
    task = asyncio.create_task(bench.runtime().run("r.a.0.1.1", input="x", meter=meter))
    while not await bench.journal():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(usage.requests, usage.unanswered) for usage in meter.usage()] == [("1", "1")]


async def test_a_wrong_key_is_auth_and_is_not_shown(bench: Bench) -> None:
    bench.key = "sk-secret-wrong"
    outcome = await bench.runtime().run("r.a.0.1.1", input="x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.AUTH
    assert "sk-secret" not in outcome.error.message


async def test_a_key_that_is_not_mounted_is_auth_and_names_the_secret(bench: Bench) -> None:
    bench.key = None
    outcome = await bench.runtime().run("r.a.0.1.1", input="x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.AUTH
    assert "model-keys" in outcome.error.message
    assert outcome.usage == []


async def test_a_rotated_key_is_used_at_the_next_call(bench: Bench) -> None:
    runtime = bench.runtime()
    bench.key = "wrong"
    first = await runtime.run("r.a.0.1.1", input="x")
    bench.key = "right"
    second = await runtime.run("r.a.0.1.2", input="x")
    assert first.error is not None
    assert second.error is None


async def test_many_attempts_at_once_keep_their_usage_apart(bench: Bench) -> None:
    await bench.rules(
        {"match": r"^odd", "reply": "o", "inputTokens": 3}, {"reply": "e", "inputTokens": 4}
    )
    runtime = bench.runtime()
    outcomes = await asyncio.gather(
        *(runtime.run(f"r.a.{n}.1.1", input=["even", "odd"][n % 2]) for n in range(20))
    )
    assert [o.output for o in outcomes] == ["e", "o"] * 10
    assert [o.usage[0].input_tokens for o in outcomes] == ["4", "3"] * 10


@pytest.mark.parametrize(
    ("model", "words"),
    [
        pytest.param({"provider": "nobody", "baseURL": None}, "nobody", id="an unknown provider"),
        pytest.param({"name": ""}, "spec.name", id="no name"),
    ],
)
async def test_a_model_that_cannot_be_called_is_said_to_be_a_problem(
    bench: Bench, model: dict[str, Any], words: str
) -> None:
    runtime = bench.runtime(model=model)
    assert words in (runtime.problem() or "")
    outcome = await runtime.run("r.a.0.1.1", input="x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.MODEL_UNAVAILABLE
