"""The spans of an attempt: one of its own, those of its calls, and what they come to."""

from decimal import Decimal
from typing import Any

import pytest

from corral.api.attempt import AttemptReport, ModelCallSpan, ModelUsage, ToolCallSpan
from corral.api.errors import ErrorClass
from corral.api.trace import SpanRef, span_id
from corral.plan.observed import Result
from corral.plan.state import Charge, Worker, priced, total
from corral.tracing import genai
from corral.tracing.attempt import Attempt, settled
from corral.tracing.span import Span, SpanKind

NOW = 1_763_900_100.0
ROOT = SpanRef("0af7651916cd43dd8448eb211c80319c", span_id("u1"))
WRITE = "u1.write.2.1.1"
WORKER = Worker(pod="w-1", uid="w-uid", url="http://w")


def about(attempt_id: str = WRITE, **changes: Any) -> Attempt:
    known: dict[str, Any] = {"agent": "writer", "started": NOW - 10, "correlation_id": "order-7"}
    return Attempt(ROOT, attempt_id, "team", **{**known, **changes})


def price(usage: ModelUsage) -> Decimal | None:
    """Of all but the Model ``free``: a tenth of a cent for a token in, three for one out."""
    if usage.model_ref == "free":
        return None
    return Decimal(usage.input_tokens) / 1000 + 3 * Decimal(usage.output_tokens) / 1000


def usage(requests: int = 1, tokens: tuple[int, int] = (7, 3), **more: Any) -> ModelUsage:
    return ModelUsage(
        model_ref=more.pop("ref", "fast"),
        provider="openai",
        model="gpt",
        requests=str(requests),
        input_tokens=str(tokens[0]),
        output_tokens=str(tokens[1]),
        **more,
    )


def call(ordinal: int, tokens: tuple[int, int] = (7, 3), **more: Any) -> ModelCallSpan:
    known: dict[str, Any] = {
        "span_id": span_id(WRITE, "call", str(ordinal)),
        "started_at": f"{NOW - 9:.6f}",
        "seconds": "2.5",
        "model_ref": "fast",
        "provider": "openai",
        "model": "gpt",
        "input_tokens": str(tokens[0]),
        "output_tokens": str(tokens[1]),
    }
    return ModelCallSpan(**{**known, **more})


def tool(ordinal: int, **more: Any) -> ToolCallSpan:
    known: dict[str, Any] = {
        "span_id": span_id(WRITE, "call", str(ordinal)),
        "started_at": f"{NOW - 6:.6f}",
        "seconds": "0.25",
        "tool": "search",
        "entry": "web",
        "call_id": "c1",
        "outcome": "Answered",
    }
    return ToolCallSpan(**{**known, **more})


def result(*used: ModelUsage, calls: Any = (), tools: Any = (), **more: Any) -> Result:
    charges = tuple(Charge(one, priced(one, price(one)), "Model") for one in used)
    report = AttemptReport(
        attempt_id=WRITE,
        pod_uid="w-uid",
        agent_revision="r",
        usage=list(used),
        started_at=f"{NOW - 9.5:.6f}",
        model_calls=list(calls),
        tool_calls=list(tools),
    )
    ended = {"worked": 9.0, "report": report, **more}
    return Result(WRITE, "w-uid", total(charges), charges=charges, **ended)


def told(ended: Result, **changes: Any) -> tuple[Span, list[Span]]:
    return settled(about(**changes), ended, WORKER, price, NOW)


def cost(spans: list[Span]) -> Decimal:
    """As whoever adds up what a store of traces has."""
    return sum(
        (
            Decimal(repr(one.attributes[genai.COST]))
            for one in spans
            if genai.COST in one.attributes
        ),
        Decimal(0),
    )


def test_an_attempt_says_what_it_was_and_when_by_its_workers_clock() -> None:
    own, calls = told(result(usage(), calls=[call(1)]))
    assert (own.name, own.kind) == ("invoke_agent writer", SpanKind.CLIENT)
    assert (own.span_id, own.parent_id) == (span_id(WRITE), span_id("u1", "write"))
    assert (own.started_at, own.ended_at) == (NOW - 9.5, NOW - 0.5)
    assert own.attributes[genai.OUTCOME] == "Succeeded"
    assert {one.attributes[genai.CORRELATION_ID] for one in (own, *calls)} == {"order-7"}
    assert (own.attributes[genai.ITEM], own.attributes[genai.ATTEMPT]) == (2, 1)
    assert genai.COST not in own.attributes
    assert own.error is None
    assert [one.parent_id for one in calls] == [own.span_id]


def test_a_model_call_is_the_workers_and_has_the_money() -> None:
    ended = result(usage(), calls=[call(1, response_id="x", finish_reason="stop")])
    _, [chat] = told(ended)
    assert (chat.name, chat.kind, chat.span_id) == (
        "chat gpt",
        SpanKind.CLIENT,
        span_id(WRITE, "call", "1"),
    )
    assert (chat.started_at, chat.ended_at) == (NOW - 9, NOW - 6.5)
    assert chat.resource[genai.SERVICE_NAME] == "corral-worker"
    assert chat.resource[genai.POD] == "w-1"
    assert chat.attributes[genai.COST] == 0.016
    assert chat.attributes[genai.FINISH_REASONS] == ("stop",)
    assert (chat.attributes[genai.INPUT_TOKENS], chat.attributes[genai.OUTPUT_TOKENS]) == (7, 3)


def test_a_tool_call_says_how_it_went() -> None:
    _, [good, bad] = told(result(tools=[tool(1), tool(2, outcome="Unreachable")]))
    assert (good.name, good.kind, good.error) == ("execute_tool search", SpanKind.INTERNAL, None)
    assert good.attributes[genai.TOOL_ENTRY] == "web"
    assert (bad.error, bad.attributes[genai.ERROR_TYPE]) == ("Unreachable", "Unreachable")


def test_the_calls_come_to_what_was_charged() -> None:
    calls = [call(1, (7, 3)), call(2, (11, 1)), call(3, (1, 1))]
    ended = result(usage(3, (19, 5)), calls=calls)
    _, spans = told(ended)
    assert cost(spans) == ended.used.cost == Decimal("0.034")
    assert len(spans) == 3


def test_what_is_not_told_call_by_call_has_one_span_that_says_so() -> None:
    ended = result(usage(10, (100, 50)), calls=[call(1, (7, 3)), call(2, (3, 7))])
    _, [*_, rest] = told(ended)
    assert rest.attributes[genai.UNTOLD_REQUESTS] == 8
    assert (rest.attributes[genai.INPUT_TOKENS], rest.attributes[genai.OUTPUT_TOKENS]) == (90, 40)
    assert cost(told(ended)[1]) == ended.used.cost


def test_a_worker_that_tells_of_no_call_is_priced_all_the_same() -> None:
    ended = result(usage(4), usage(1, ref="other"))
    own, spans = told(ended)
    assert [one.attributes[genai.MODEL_REF] for one in spans] == ["fast", "other"]
    assert (spans[0].started_at, spans[0].ended_at) == (own.started_at, own.ended_at)
    assert cost(spans) == ended.used.cost


def test_what_has_no_price_has_no_cost_and_is_counted() -> None:
    ended = result(
        usage(2, ref="free"), calls=[call(1, model_ref="free"), call(2, model_ref="free")]
    )
    _, spans = told(ended)
    assert all(genai.COST not in one.attributes for one in spans)
    assert sum(int(str(one.attributes[genai.UNPRICED])) for one in spans) == 2


def test_a_call_that_nobody_answered_is_unpriced_beside_others_that_are_not() -> None:
    calls = [call(1), call(2, (0, 0), unanswered=True, error_class=ErrorClass.TIMEOUT)]
    ended = result(usage(2, unanswered="1"), calls=calls)
    _, [good, bad] = told(ended)
    assert (good.attributes[genai.COST], genai.UNPRICED in good.attributes) == (0.016, False)
    assert (genai.COST in bad.attributes, bad.attributes[genai.UNPRICED]) == (False, 1)
    assert (bad.error, bad.attributes[genai.ERROR_TYPE]) == ("Timeout", "Timeout")
    assert ended.used.unpriced_requests == 1


def test_a_cost_that_a_double_can_not_hold_is_told_to_its_nearest() -> None:
    of = usage(2)
    exact = Decimal("0.12345678901234567890")
    ended = result(of, calls=[call(1, (3, 1)), call(2, (4, 2))])
    charge = Charge(of, priced(of, exact), "Model")
    _, spans = settled(
        about(),
        Result(WRITE, "w", charge.used, charges=(charge,), report=ended.report),
        None,
        price,
        NOW,
    )
    assert abs(cost(spans) - exact) < Decimal("1e-16")


def test_a_retry_is_linked_to_the_attempt_before_it() -> None:
    own, _ = settled(
        about("u1.write.2.1.3", follows="WorkerLost"),
        Result("u1.write.2.1.3", "w", total(()), error=ErrorClass.TIMEOUT, message="too slow"),
        None,
        price,
        NOW,
    )
    (link,) = own.links
    assert link.span_id == span_id("u1.write.2.1.2")
    assert link.attributes == {genai.RETRY_REASON: "WorkerLost"}
    assert (own.error, own.attributes[genai.ERROR_TYPE]) == ("too slow", "Timeout")
    assert (own.started_at, own.ended_at) == (NOW - 10, NOW)


def test_a_step_of_a_tool_executes_that_tool() -> None:
    own, _ = told(result(), tool="search")
    assert (own.name, own.attributes[genai.OPERATION]) == ("execute_tool search", "execute_tool")


@pytest.mark.parametrize(
    "made_up",
    [
        {"span_id": "zz"},
        {"span_id": "0" * 16},
        {"span_id": span_id(WRITE)},
        {"started_at": "nan"},
        {"started_at": "soon"},
        {"seconds": "-1"},
        {"seconds": "1e99"},
        {"input_tokens": "many"},
    ],
)
def test_what_a_worker_makes_up_costs_no_more_and_no_less(made_up: dict[str, str]) -> None:
    ended = result(usage(2), calls=[call(1), call(2, (0, 0), **made_up)])
    _, spans = told(ended)
    assert len({one.span_id for one in spans}) == len(spans) == 2
    assert spans[-1].attributes[genai.UNTOLD_REQUESTS] == 1
    assert cost(spans) == ended.used.cost


def test_the_same_id_twice_is_one_span() -> None:
    _, spans = told(result(usage(2), calls=[call(1), call(1)]))
    assert len({one.span_id for one in spans}) == len(spans) == 2


def test_texts_are_cleaned_and_bounded() -> None:
    _, [chat] = told(result(usage(), calls=[call(1, response_id="a\0b" + "x" * 900)]))
    assert str(chat.attributes[genai.RESPONSE_ID]).startswith("abx")
    assert len(str(chat.attributes[genai.RESPONSE_ID])) == 512
