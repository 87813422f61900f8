"""What an attempt's report says of how its Models are."""

import asyncio
from typing import Any

import pytest

from corral.api.attempt import ModelUsage
from corral.api.errors import ErrorClass
from corral.worker.outcome import ModelCall, UsageMeter
from tests.unit.worker.tool_bench import model_server, runtime, simulated

ATTEMPT = "r.a.0.1.1"
DOWN, LIMITED = ErrorClass.MODEL_UNAVAILABLE, ErrorClass.RATE_LIMITED


def health(usage: list[ModelUsage]) -> tuple[bool, str, str | None]:
    [of_model] = usage
    return of_model.answered, of_model.failures, of_model.retry_after_seconds


@pytest.mark.parametrize(
    ("errors", "answered", "failures"),
    [
        ([], True, 0),
        ([None], True, 0),
        ([DOWN], False, 1),
        ([DOWN, LIMITED], False, 2),
        ([None, DOWN], True, 1),
        ([DOWN, None], True, 0),
        ([ErrorClass.REJECTED], True, 0),
        ([DOWN, ErrorClass.AUTH], True, 0),
    ],
)
def test_failures_count_in_a_row_up_to_the_last_call(
    errors: list[ErrorClass | None], answered: bool, failures: int
) -> None:
    meter = UsageMeter()
    for error in errors:
        meter.add(ModelCall("m", "openai", "gpt", error_class=error, unanswered=error is DOWN))
    if errors:
        assert health(meter.usage())[:2] == (answered, str(failures))
    else:
        assert meter.usage() == []


def test_a_call_that_was_cut_off_tells_nothing_unless_the_attempts_time_was_over() -> None:
    meter = UsageMeter()
    meter.add(ModelCall("m", "openai", "gpt", unanswered=True))
    assert health(meter.usage())[:2] == (False, "0")
    meter.timed_out()
    assert health(meter.usage())[:2] == (False, "1")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"reply": "ok"}, (True, "0", None)),
        ({"fault": "ServerError"}, (False, "1", None)),
        ({"fault": "RateLimit"}, (False, "1", "1.000")),
        ({"fault": "Hang"}, (False, "1", None)),
    ],
)
async def test_the_report_tells_how_the_model_answered_and_how_long_it_asked_to_wait(
    rule: dict[str, Any], expected: tuple[bool, str, str | None]
) -> None:
    async with model_server(rule) as models:
        agent = runtime(models)
        patience = 1.5 if rule.get("fault") == "Hang" else 60
        outcome = await agent.run(ATTEMPT, "go", timeout_seconds=patience)
        await agent.aclose()
    assert health(outcome.usage) == expected


async def test_a_cancelled_attempt_says_nothing_of_its_model() -> None:
    meter = UsageMeter()
    async with model_server({"fault": "Hang"}) as models:
        agent = runtime(models)
        task = asyncio.create_task(agent.run(ATTEMPT, "go", meter=meter))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        await agent.aclose()
    assert all((used.answered, used.failures) == (False, "0") for used in meter.usage())


@pytest.mark.parametrize(
    ("fallbacks", "asked", "output"),
    [
        (None, ["first", "second"], "2"),
        (["second", "third"], ["first", "second"], "2"),
        (["third"], ["first", "third"], "3"),
        ([], ["first"], None),
    ],
)
async def test_an_attempt_moves_on_only_to_the_fallbacks_that_it_is_told(
    fallbacks: list[str] | None, asked: list[str], output: str | None
) -> None:
    models = {
        "first": simulated(failurePercent=100),
        "second": simulated(reply="2"),
        "third": simulated(reply="3"),
    }
    names = [{"modelRef": {"name": name}} for name in ("second", "third")]
    outcome = await runtime(models, fallbackModels=names).run(ATTEMPT, "go", fallbacks=fallbacks)
    assert [used.model_ref for used in outcome.usage] == asked
    assert outcome.output == output
