"""``provider: simulated``: literal, deterministic, and without any provider's client."""

import subprocess
import sys
from typing import Any

import pytest

from corral.api.agent import AgentSpec
from corral.api.errors import ErrorClass
from corral.api.model import ModelSpec
from corral.worker.runtime import AgentRuntime

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def runtime(
    simulation: dict[str, Any] | None = None,
    agent: dict[str, Any] | None = None,
    timeout: str = "60s",
) -> AgentRuntime:
    spec = {"provider": "simulated", "timeout": timeout, "simulation": simulation or {}}
    return AgentRuntime(
        AgentSpec.model_validate({"modelRef": {"name": "fake"}, **(agent or {})}),
        "writer",
        {"fake": ModelSpec.model_validate(spec)},
        lambda model: None,
    )


SCRIPT = {
    "reply": "else",
    "script": [
        {"match": "EU|US", "reply": "regions"},
        {"match": r"^Write\b", "reply": "a text"},
        {"match": '"n":1', "reply": "one"},
    ],
}


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        pytest.param("Write of the EU", None, "regions", id="the first match wins"),
        pytest.param("Write now", None, "a text", id="a later rule"),
        pytest.param("Rewrite now", None, "else", id="no match gives the reply"),
        pytest.param(
            None, {"m": [1, 2], "n": 1}, "one", id="inputData is searched as compact JSON"
        ),
        pytest.param("About", {"n": 1}, "one", id="text and data are both searched"),
        pytest.param(None, None, "else", id="no input at all"),
    ],
)
async def test_the_first_rule_found_in_the_input_answers(
    text: str | None, data: dict[str, Any] | None, expected: str
) -> None:
    assert (await runtime(SCRIPT).run("r.a.0.1.1", text, data)).output == expected


async def test_a_reply_is_text_without_a_schema_and_json_with_one() -> None:
    fake = runtime({"reply": '{"n": 3}'})
    assert (await fake.run("r.a.0.1.1", "x")).output == '{"n": 3}'
    outcome = await fake.run("r.a.0.1.1", "x", output_schema=NUMBER)
    assert (outcome.output, outcome.structured) == ({"n": 3}, True)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param("no JSON", "not JSON", id="text"),
        pytest.param('{"n": "x"}', "is not of type 'integer'", id="JSON that does not fit"),
        pytest.param('{"n": NaN}', "not JSON", id="NaN"),
        pytest.param('```json\n{"n": 1}\n```', "not JSON", id="replies are literal, fences too"),
    ],
)
async def test_a_reply_that_does_not_fit_is_asked_for_four_times(reply: str, words: str) -> None:
    outcome = await runtime({"reply": reply}).run("r.a.0.1.1", "x", output_schema=NUMBER)
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.INVALID_OUTPUT
    assert words in outcome.error.message
    [usage] = outcome.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == ("4", "200", "80")


async def test_max_turns_bounds_the_asking() -> None:
    fake = runtime({"reply": "no JSON"}, {"limits": {"maxTurns": 2}})
    outcome = await fake.run("r.a.0.1.1", "x", output_schema=NUMBER)
    assert outcome.usage[0].requests == "2"


async def test_failures_are_drawn_from_seed_attempt_and_call_alone() -> None:
    async def failed(fake: AgentRuntime) -> list[bool]:
        outcomes = [await fake.run(f"r.a.{n}.1.1", "x") for n in range(200)]
        assert {o.error.error_class for o in outcomes if o.error} <= {ErrorClass.MODEL_UNAVAILABLE}
        return [o.error is not None for o in outcomes]

    first = await failed(runtime({"failurePercent": 30, "seed": 5}))
    assert first == await failed(runtime({"failurePercent": 30, "seed": 5}))
    assert first != await failed(runtime({"failurePercent": 30, "seed": 6}))
    assert 30 <= sum(first) <= 90
    assert not any(await failed(runtime({"failurePercent": 0})))
    assert all(await failed(runtime({"failurePercent": 100})))


async def test_every_call_counts_exactly_and_is_marked() -> None:
    fake = runtime({"inputTokens": 7, "outputTokens": 0, "failurePercent": 100})
    [usage] = (await fake.run("r.a.0.1.1", "x")).usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == ("1", "7", "0")
    assert usage.simulated


async def test_a_latency_beyond_the_models_timeout_is_model_unavailable() -> None:
    fake = runtime({"latency": "1h"}, timeout="10ms")
    outcome = await fake.run("r.a.0.1.1", "x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.MODEL_UNAVAILABLE
    assert "10ms" in outcome.error.message


async def test_a_latency_beyond_the_attempts_timeout_is_timeout_with_the_usage() -> None:
    fake = runtime({"latency": "30s"}, {"limits": {"timeout": "10ms"}})
    outcome = await fake.run("r.a.0.1.1", "x")
    assert outcome.error is not None
    assert outcome.error.error_class is ErrorClass.TIMEOUT
    assert outcome.usage[0].requests == "1"


@pytest.mark.parametrize(
    ("agent", "schema", "error_class"),
    [
        pytest.param({"modelRef": None}, None, ErrorClass.INTERNAL, id="no modelRef"),
        pytest.param(
            {"modelRef": {"name": "other"}}, None, ErrorClass.MODEL_UNAVAILABLE, id="no such Model"
        ),
        pytest.param({}, {"type": "nonsense"}, ErrorClass.INVALID_OUTPUT, id="a broken schema"),
        pytest.param(
            {}, {"$ref": "https://example.com/s"}, ErrorClass.INVALID_OUTPUT, id="a remote schema"
        ),
    ],
)
async def test_what_cannot_work_fails_with_a_class_and_no_exception(
    agent: dict[str, Any], schema: dict[str, Any] | None, error_class: ErrorClass
) -> None:
    fake = runtime({"reply": "{}"}, agent)
    outcome = await fake.run("r.a.0.1.1", "x", output_schema=schema)
    assert outcome.error is not None
    assert outcome.error.error_class is error_class


def test_a_simulated_attempt_imports_neither_pydantic_ai_nor_a_client_nor_the_sdk() -> None:
    program = """
import asyncio, sys
from corral.api.agent import AgentSpec
from corral.api.model import ModelSpec
from corral.worker.runtime import AgentRuntime
spec = AgentSpec.model_validate({"modelRef": {"name": "m"}, "outputSchema": {"type": "object"}})
model = ModelSpec.model_validate({"provider": "simulated", "simulation": {"reply": "{}"}})
runtime = AgentRuntime(spec, "a", {"m": model}, lambda name: None)
runtime.warm_up()
assert asyncio.run(runtime.run("r.a.0.1.1", "x")).output == {}
print([name for name in ("pydantic_ai", "openai", "a2a", "starlette") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
