"""Caps, and what is asked when a model fails: with scripted answers, and with real clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from corral.api.errors import ErrorClass
from corral.worker.outcome import AttemptOutcome
from corral.worker.runtime import AgentRuntime
from tests.unit.worker.tool_bench import call, model_server, runtime, simulated, tools

ATTEMPT = "r.a.0.1.1"
PRICE = {"inputPerMillionUSD": "1000", "outputPerMillionUSD": "2500"}
"""With 50 and 20 tokens a call that is 0.1 USD a call."""
NEVER_FITS = {"type": "integer"}


def failed(outcome: AttemptOutcome, error_class: ErrorClass) -> str:
    assert outcome.error is not None
    assert outcome.error.error_class is error_class
    return outcome.error.message


def requests(outcome: AttemptOutcome) -> dict[str, int]:
    return {used.model_ref: int(used.requests) for used in outcome.usage}


def asking(reply: str = "no JSON", **agent: Any) -> AgentRuntime:
    """An Agent whose model is asked again and again, as its answer never fits."""
    model = {**simulated(reply=reply), "price": PRICE}
    return runtime({"fake": model}, outputSchema=NEVER_FITS, **agent)


@pytest.mark.parametrize(
    ("caps", "calls"),
    [
        pytest.param({"max_tokens": 70}, 1, id="as many tokens as a call has"),
        pytest.param({"max_tokens": 71}, 2, id="one token more"),
        pytest.param({"max_cost_usd": Decimal("0.1")}, 1, id="what a call costs"),
        pytest.param({"max_cost_usd": Decimal("0.1001")}, 2, id="a little more"),
        pytest.param({"max_cost_usd": Decimal("0.25"), "max_tokens": 10**9}, 3, id="the lower"),
        pytest.param({"max_cost_usd": Decimal(0)}, 0, id="nothing"),
    ],
)
async def test_no_call_begins_once_a_cap_is_reached(caps: dict[str, Any], calls: int) -> None:
    outcome = await asking().run(ATTEMPT, "go", **caps)
    failed(outcome, ErrorClass.BUDGET)
    assert requests(outcome) == ({"fake": calls} if calls else {})


async def test_the_agents_own_cap_holds_beside_the_requests() -> None:
    limits = {"limits": {"maxCostUSD": "0.15"}}
    for caps in ({}, {"max_cost_usd": Decimal(5)}):
        outcome = await asking(**limits).run(ATTEMPT, "go", **caps)
        message = failed(outcome, ErrorClass.BUDGET)
        assert message == "The attempt has cost 0.2 USD and may cost 0.15."


async def test_what_has_no_price_reaches_no_cap_on_the_cost() -> None:
    agent = runtime({"fake": simulated(reply="text")}, limits={"maxCostUSD": "0.000001"})
    assert (await agent.run(ATTEMPT, "go")).output == "text"


async def test_caps_hold_between_calls_of_tools() -> None:
    async with tools() as server:
        agent = runtime({"fake": simulated(call("add", a=1, b=2))}, server.entry())
        outcome = await agent.run(ATTEMPT, "go", max_tokens=70)
        assert len(await server.calls()) == 1
    assert failed(outcome, ErrorClass.BUDGET) == ("The attempt has used 70 tokens and may use 70.")


BROKEN = {"failurePercent": 100}


def fallback(name: str, *errors: str) -> dict[str, Any]:
    return {"modelRef": {"name": name}, **({"onErrors": list(errors)} if errors else {})}


@asynccontextmanager
async def either(real: bool) -> AsyncIterator[list[dict[str, Any]]]:
    """Tools for an Agent, with which it takes the way of real models, or none."""
    if not real:
        yield []
        return
    async with tools() as server:
        yield [server.entry()]


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with tools"])
async def test_the_next_fallback_that_is_meant_for_the_error_is_asked(real: bool) -> None:
    models = {
        "first": simulated(**BROKEN),
        "other": simulated(reply="other"),
        "second": simulated(**BROKEN),
        "third": simulated(reply="third"),
    }
    async with either(real) as entries:
        agent = runtime(
            models,
            *entries,
            fallbackModels=[
                fallback("other", "RateLimited"),
                fallback("second"),
                fallback("third", "ModelUnavailable"),
            ],
        )
        outcome = await agent.run(ATTEMPT, "go")
    assert outcome.output == "third"
    assert requests(outcome) == {"first": 1, "second": 1, "third": 1}


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with tools"])
async def test_an_error_that_no_fallback_is_meant_for_ends_the_attempt(real: bool) -> None:
    async with either(real) as entries:
        agent = runtime(
            {"first": simulated(**BROKEN), "other": simulated()},
            *entries,
            fallbackModels=[fallback("other", "RateLimited")],
        )
        outcome = await agent.run(ATTEMPT, "go")
    failed(outcome, ErrorClass.MODEL_UNAVAILABLE)
    assert requests(outcome) == {"first": 1}


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with tools"])
async def test_an_answer_that_never_fits_leads_to_a_fallback(real: bool) -> None:
    async with either(real) as entries:
        agent = runtime(
            {"first": simulated(reply="no JSON"), "other": simulated(reply="7")},
            *entries,
            outputSchema={"type": "integer"},
            fallbackModels=[fallback("other", "InvalidOutput")],
        )
        outcome = await agent.run(ATTEMPT, "go")
    assert (outcome.output, outcome.structured) == (7, True)
    assert requests(outcome) == {"first": 4, "other": 1}


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with tools"])
async def test_when_all_fail_the_message_tells_of_each(real: bool) -> None:
    async with either(real) as entries:
        agent = runtime(
            {"first": simulated(**BROKEN), "other": simulated(**BROKEN)},
            *entries,
            fallbackModels=[fallback("other")],
        )
        message = failed(await agent.run(ATTEMPT, "go"), ErrorClass.MODEL_UNAVAILABLE)
    assert message.startswith("Model other failed")
    assert "Before it: Model first failed" in message


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with tools"])
async def test_a_request_can_begin_at_a_fallback(real: bool) -> None:
    async with either(real) as entries:
        agent = runtime(
            {"first": simulated(reply="first"), "other": simulated(reply="other")},
            *entries,
            fallbackModels=[fallback("other")],
        )
        outcome = await agent.run(ATTEMPT, "go", model_ref="other")
        assert (outcome.output, requests(outcome)) == ("other", {"other": 1})
        assert "Model none is not one of Agent researcher's models" in failed(
            await agent.run(ATTEMPT, "go", model_ref="none"), ErrorClass.INTERNAL
        )


async def test_a_real_model_that_is_limited_is_followed_by_another_within_the_attempt() -> None:
    rules = [
        {"model": "m", "fault": "RateLimit"},
        {"model": "n", "toolCalls": [call("add", a=1, b=2)], "reply": "three"},
    ]
    async with tools() as server, model_server(*rules) as models:
        models["cheap"] = {**models["real"], "name": "n"}
        agent = runtime(models, server.entry(), fallbackModels=[fallback("cheap")])
        outcome = await agent.run(ATTEMPT, "go")
        await agent.aclose()
    assert (outcome.output, requests(outcome)) == ("three", {"real": 1, "cheap": 2})


async def test_a_cap_that_is_reached_asks_no_fallback() -> None:
    models = {
        "first": {**simulated(reply="no JSON"), "price": PRICE},
        "other": simulated(reply="7"),
    }
    agent = runtime(models, outputSchema=NEVER_FITS, fallbackModels=[fallback("other", "Budget")])
    outcome = await agent.run(ATTEMPT, "go", max_cost_usd=Decimal("0.1"))
    failed(outcome, ErrorClass.BUDGET)
    assert requests(outcome) == {"first": 1}
