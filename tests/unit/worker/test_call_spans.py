"""What an attempt's report tells of its calls, and what the called servers are told."""

import asyncio
import re
import time
from collections import Counter
from typing import Any

import pytest

from corral.api.attempt import MAX_CALL_SPANS, ModelCallSpan, ToolInvocation
from corral.api.errors import ErrorClass
from corral.api.trace import SpanRef, span_id
from corral.toolserver.journal import digest
from corral.worker.attempts import AttemptTable
from corral.worker.call_spans import CallSpans
from corral.worker.outcome import AttemptOutcome, ModelCall, ToolCall, ToolOutcome, UsageMeter
from corral.worker.runtime import AgentRuntime
from tests.unit.worker.bench import report, working
from tests.unit.worker.tool_bench import call, model_server, runtime, simulated, tools

ATTEMPT = "r.a.0.1.1"
TRACE = "0af7651916cd43dd8448eb211c80319c"
KEPT = f"00-{TRACE}-b7ad6b7169203331-01"
NOT_KEPT = f"00-{TRACE}-b7ad6b7169203331-00"
NEVER_FITS = {"type": "integer"}


def traced(traceparent: str | None = KEPT) -> UsageMeter:
    return UsageMeter(spans=CallSpans(ATTEMPT, traceparent))


def of_call(ordinal: int) -> str:
    return span_id(ATTEMPT, "call", str(ordinal))


async def run(agent: AgentRuntime, meter: UsageMeter, **more: Any) -> AttemptOutcome:
    """Runs an attempt; what its spans say of usage is what its bill says."""
    before = time.time()
    outcome = await agent.run(ATTEMPT, "go", meter=meter, correlation_id="c-1", **more)
    await agent.aclose()
    check(meter, before)
    return outcome


def check(meter: UsageMeter, before: float) -> None:
    told: Counter[tuple[str, bool, str]] = Counter()
    for one in meter.spans.model_calls:
        told[one.model_ref, one.simulated, "requests"] += 1
        told[one.model_ref, one.simulated, "input"] += int(one.input_tokens)
        told[one.model_ref, one.simulated, "output"] += int(one.output_tokens)
        told[one.model_ref, one.simulated, "unanswered"] += one.unanswered
    billed = Counter(
        {
            (used.model_ref, used.simulated, what): int(count)
            for used in meter.usage()
            for what, count in (
                ("requests", used.requests),
                ("input", used.input_tokens),
                ("output", used.output_tokens),
                ("unanswered", used.unanswered),
            )
        }
    )
    assert told == billed
    for span in [*meter.spans.model_calls, *meter.spans.tool_calls]:
        began, seconds = float(span.started_at), float(span.seconds)
        assert re.fullmatch(r"\d+\.\d{6}", span.started_at)
        assert before - 0.001 <= began <= began + seconds <= time.time() + 0.001


def models(meter: UsageMeter) -> list[tuple[str, ErrorClass | None, bool]]:
    return [(one.model_ref, one.error_class, one.unanswered) for one in meter.spans.model_calls]


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "b7ad6b7169203331",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        "00-größe-b7ad6b7169203331-01",
    ],
)
def test_without_a_trace_calls_have_no_span(traceparent: str | None) -> None:
    spans = CallSpans(ATTEMPT, traceparent)
    begun = spans.begin()
    spans.model_called(begun, ModelCall("m", "openai", "gpt"))
    spans.tool_called(begun, ToolCall("library", "add", 0.1, ToolOutcome.ANSWERED))
    assert (begun.traceparent, spans.trace_id, spans.count) == (None, None, 0)


def test_a_trace_that_nobody_keeps_is_handed_on_and_not_told_of() -> None:
    spans = CallSpans(ATTEMPT, NOT_KEPT)
    begun = spans.begin()
    spans.model_called(begun, ModelCall("m", "openai", "gpt"))
    assert begun.traceparent == f"00-{TRACE}-{of_call(1)}-00"
    assert (spans.trace_id, spans.count) == (TRACE, 0)


def test_the_first_calls_are_told_of_and_all_have_a_span() -> None:
    spans = CallSpans(ATTEMPT, KEPT)
    begun = [spans.begin() for _ in range(MAX_CALL_SPANS + 2)]
    for index, one in enumerate(reversed(begun)):
        if index % 2:
            spans.model_called(one, ModelCall("m", "openai", "gpt"))
        else:
            spans.tool_called(one, ToolCall("library", "add", 0.1, ToolOutcome.ANSWERED))
    told = {one.span_id for one in [*spans.model_calls, *spans.tool_calls]}
    assert told == {of_call(number) for number in range(1, MAX_CALL_SPANS + 1)}
    assert spans.count == MAX_CALL_SPANS
    assert begun[-1].traceparent == f"00-{TRACE}-{of_call(MAX_CALL_SPANS + 2)}-01"


def test_what_servers_say_is_cut_off_and_can_be_written() -> None:
    spans = CallSpans(ATTEMPT, KEPT)
    said = "\ud800" + "x" * 1000
    spans.model_called(spans.begin(), ModelCall("m", "openai", "gpt", response_model=said))
    spans.tool_called(spans.begin(), ToolCall("", said, 0.1, ToolOutcome.FAILED, call_id="\udfff"))
    [of_model], [of_tool] = spans.model_calls, spans.tool_calls
    assert of_model.response_model == of_tool.tool == "?" + "x" * 255
    assert of_tool.call_id == "?"


async def test_servers_are_told_of_the_spans_that_the_report_has() -> None:
    rules = [{"match": "go", "toolCalls": [call("add", a=1, b=2)], "reply": "It is 3."}]
    meter = traced()
    async with tools() as server, model_server(*rules) as real:
        assert (await run(runtime(real, server.entry()), meter)).output == "It is 3."
        [added] = await server.calls()
        asked = await server_journal(real)
    first, second = meter.spans.model_calls
    [of_tool] = meter.spans.tool_calls
    ids = [first.span_id, of_tool.span_id, second.span_id]
    assert ids == [of_call(number) for number in (1, 2, 3)]
    of_servers = [asked[0]["traceparent"], added["traceparent"], asked[1]["traceparent"]]
    assert of_servers == [f"00-{TRACE}-{one}-01" for one in ids]
    headers = added["headerDigests"]
    assert headers["traceparent"] == digest(added["traceparent"])
    assert headers["corral-correlation-id"] == digest("c-1")
    assert [one["correlationID"] for one in asked] == ["c-1", "c-1"]
    assert (of_tool.tool, of_tool.entry, of_tool.outcome) == ("add", "library", "Answered")
    assert of_tool.call_id
    assert (first.provider, first.model, first.response_model) == ("openai", "m", "m")
    assert (first.finish_reason, second.finish_reason) == ("tool_call", "stop")
    assert first.response_id
    assert first.response_id != second.response_id


async def server_journal(of: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    import httpx

    url = of["real"]["baseURL"].removesuffix("/v1")
    async with httpx.AsyncClient() as client:
        found: list[dict[str, Any]] = (await client.get(f"{url}/journal")).json()["requests"]
    return found


async def test_calls_at_the_same_time_have_each_their_own_span() -> None:
    many = [call("add", a=number, b=0) for number in range(8)]
    meter = traced()
    async with tools() as server:
        await run(runtime({"fake": simulated(*many)}, server.entry()), meter)
        made = await server.calls()
    assert {one["traceparent"] for one in made} == {
        SpanRef(TRACE, one.span_id).traceparent for one in meter.spans.tool_calls
    }
    assert all(one["headerDigests"]["traceparent"] == digest(one["traceparent"]) for one in made)
    assert len(meter.spans.tool_calls) == len({one["traceparent"] for one in made}) == 8


@pytest.mark.parametrize(("traceparent", "flag"), [(NOT_KEPT, "00"), (None, None), ("x", None)])
async def test_servers_are_told_of_traces_that_nobody_keeps_and_of_none_that_is_none(
    traceparent: str | None, flag: str | None
) -> None:
    rules = [{"match": "go", "toolCalls": [call("add", a=1, b=2)], "reply": "It is 3."}]
    meter = traced(traceparent)
    async with tools() as server, model_server(*rules) as real:
        agent = runtime(real, server.entry())
        assert (await agent.run(ATTEMPT, "go", meter=meter)).output == "It is 3."
        await agent.aclose()
        made = [*await server_journal(real), *await server.calls()]
    wanted = {f"00-{TRACE}-{of_call(n)}-{flag}" for n in (1, 2, 3)} if flag else {None}
    assert {one.get("traceparent") for one in made} == wanted
    assert "corral-correlation-id" not in made[-1]["headerDigests"]
    assert ("traceparent" in made[-1]["headerDigests"]) == bool(flag)
    assert meter.spans.count == 0


@pytest.mark.parametrize(
    ("rule", "error_class", "unanswered"),
    [
        ({"reply": "ok", "inputTokens": 7, "outputTokens": 3}, None, False),
        ({"fault": "ServerError"}, ErrorClass.MODEL_UNAVAILABLE, False),
        ({"fault": "RateLimit"}, ErrorClass.RATE_LIMITED, False),
        ({"fault": "Quota"}, ErrorClass.QUOTA, False),
        ({"fault": "Garbage"}, ErrorClass.INVALID_OUTPUT, True),
        ({"fault": "Drop"}, ErrorClass.MODEL_UNAVAILABLE, True),
        ({"fault": "Hang"}, None, True),
    ],
)
async def test_a_call_is_told_of_however_it_ends(
    rule: dict[str, Any], error_class: ErrorClass | None, unanswered: bool
) -> None:
    meter = traced()
    async with model_server(rule) as real:
        patience = 1.5 if rule.get("fault") == "Hang" else 60
        await run(runtime(real), meter, timeout_seconds=patience)
        [asked] = await server_journal(real)
    assert models(meter) == [("real", error_class, unanswered)]
    assert asked["traceparent"] == f"00-{TRACE}-{meter.spans.model_calls[0].span_id}-01"


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with a real client"])
async def test_a_fallback_is_a_call_of_its_own_with_its_own_model(real: bool) -> None:
    broken: dict[str, Any] = {"first": simulated(failurePercent=100), "other": simulated()}
    names = [{"modelRef": {"name": "other"}}]
    meter = traced()
    async with model_server({"model": "m", "fault": "ServerError"}, {"reply": "2"}) as served:
        if real:
            broken = {"first": served["real"], "other": {**served["real"], "name": "m2"}}
        outcome = await run(runtime(broken, fallbackModels=names), meter)
    assert outcome.error is None
    assert models(meter) == [
        ("first", ErrorClass.MODEL_UNAVAILABLE, False),
        ("other", None, False),
    ]
    wanted = ["m", "m2"] if real else ["simulated", "simulated"]
    assert [one.model for one in meter.spans.model_calls] == wanted
    assert [one.span_id for one in meter.spans.model_calls] == [of_call(1), of_call(2)]


@pytest.mark.parametrize("real", [False, True], ids=["scripted", "with a real client"])
async def test_every_turn_that_asks_again_is_a_call(real: bool) -> None:
    meter = traced()
    async with model_server({"reply": "no JSON"}) as served:
        of = served if real else {"fake": simulated(reply="no JSON")}
        outcome = await run(runtime(of, outputSchema=NEVER_FITS), meter)
    assert outcome.error is not None
    assert len(meter.spans.model_calls) == 4


@pytest.mark.parametrize(
    "kind", ["a scripted answer", "a scripted answer with tools", "a real client", "a tool"]
)
async def test_a_call_that_a_cancellation_cuts_off_is_told_of(kind: str) -> None:
    meter, before = traced(), time.time()
    slow = simulated(latency="60s")
    async with tools() as server, model_server({"fault": "Hang"}) as served:
        agent = {
            "a scripted answer": lambda: runtime({"fake": slow}),
            "a scripted answer with tools": lambda: runtime({"fake": slow}, server.entry()),
            "a real client": lambda: runtime(served),
            "a tool": lambda: runtime(
                {"fake": simulated(call("slow", seconds=60))}, server.entry()
            ),
        }[kind]()
        table = AttemptTable(1)
        attempt = table.start(
            ATTEMPT, lambda meter: agent.run(ATTEMPT, "go", meter=meter), meter=meter
        )
        calls = 2 if kind == "a tool" else 1
        while meter.spans._begun < calls:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        table.cancel(ATTEMPT)
        await attempt.ended.wait()
        await agent.aclose()
    assert attempt.state == "CANCELED"
    check(meter, before)
    told = meter.spans
    cut_off = told.tool_calls if kind == "a tool" else told.model_calls
    assert float(cut_off[-1].seconds) < 50
    assert told.count == calls
    if kind == "a tool":
        assert told.tool_calls[0].outcome == "Unreachable"
    if kind == "a real client":
        assert models(meter) == [("real", None, True)]


@pytest.mark.parametrize(
    ("made", "entry", "outcome"),
    [
        pytest.param(call("add", a=1, b=2), {}, "Answered", id="answers"),
        pytest.param(call("fail", message="no"), {}, "Failed", id="says that it failed"),
        pytest.param(call("slow", seconds=60), {"timeout": "300ms"}, "Unreachable", id="is slow"),
        pytest.param(call("large", size=6_000_000), {}, "Unreachable", id="says too much"),
    ],
)
@pytest.mark.parametrize("step", [False, True], ids=["for a model", "for a step"])
async def test_a_tool_call_is_told_of_however_it_ends(
    made: dict[str, Any], entry: dict[str, Any], outcome: str, step: bool
) -> None:
    meter = traced()
    async with tools() as server:
        if step:
            arguments = re.sub("'", '"', str(made["arguments"]))
            tool = ToolInvocation(url=server.url, name=made["name"], arguments=arguments)
            agent, more = runtime({"fake": simulated()}), {"tool": tool, "timeout_seconds": 3}
        else:
            agent = runtime({"fake": simulated(made)}, server.entry(**entry))
            more = {}
        await run(agent, meter, **more)
        [seen] = await server.calls()
    [told] = meter.spans.tool_calls
    assert (told.tool, told.outcome) == (made["name"], outcome)
    assert (told.entry, told.call_id) == (("", None) if step else ("library", "call-1-1"))
    assert seen["traceparent"] == f"00-{TRACE}-{told.span_id}-01"
    assert told.span_id == of_call(1 if step else 2)


SENT = {"traceparent": KEPT, "correlationID": "c-1"}


async def test_a_report_has_the_calls_until_everything_is_booked() -> None:
    async with working() as operator:
        before = time.time()
        task = (await operator.send(ATTEMPT, **SENT)).json()["task"]
        told = report(task)
        [made] = told["modelCalls"]
        span = ModelCallSpan.model_validate(made)
        began, ended = (
            float(told["startedAt"]),
            float(told["startedAt"]) + float(told["durationSeconds"]),
        )
        assert before - 0.001 <= began <= float(span.started_at)
        assert float(span.started_at) + float(span.seconds) <= ended + 0.001
        assert (span.span_id, span.model_ref, span.input_tokens) == (of_call(1), "fast", "50")
        held = operator.worker.table.unacked_bytes
        body = {"attemptIds": [ATTEMPT], "booked": False}
        await operator.client.post("/corral/v1/ack", headers=operator.headers, json=body)
        kept = report((await operator.task(ATTEMPT)).json())
        assert kept["modelCalls"] == told["modelCalls"]
        assert 0 < operator.worker.table.unacked_bytes < held
        await operator.ack(ATTEMPT)
        assert operator.worker.table.unacked_bytes == 0


@pytest.mark.parametrize(
    ("request_", "simulation", "state"),
    [
        pytest.param({}, {"failurePercent": 100}, "FAILED", id="fails"),
        pytest.param({"timeoutSeconds": "0.2"}, {"latency": "50s"}, "FAILED", id="takes too long"),
        pytest.param({}, {"latency": "50s"}, "CANCELED", id="is cancelled"),
    ],
)
async def test_the_report_of_an_attempt_without_a_result_tells_of_its_calls_too(
    request_: dict[str, Any], simulation: dict[str, Any], state: str
) -> None:
    async with working(simulation=simulation) as operator:
        if state == "CANCELED":
            first = (await operator.send(ATTEMPT, wait=0, **SENT)).json()["task"]
            assert report(first)["startedAt"]
            assert report(first).get("modelCalls", []) == []
            task = (await operator.cancel(ATTEMPT)).json()
        else:
            task = (await operator.send(ATTEMPT, **SENT, **request_)).json()["task"]
    assert task["status"]["state"] == f"TASK_STATE_{state}"
    assert [one["spanID"] for one in report(task)["modelCalls"]] == [of_call(1)]


async def test_an_attempt_that_waits_for_approval_tells_of_the_calls_until_then() -> None:
    model = simulated(call("delete", name="x"))
    async with tools() as server:
        guarded = {"agent": {"tools": [server.entry(requireApproval=["delete"])]}}
        async with working(**guarded, simulation=model["simulation"]) as operator:
            task = (await operator.send(ATTEMPT, **SENT)).json()["task"]
    told = report(task)
    assert task["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert [one["spanID"] for one in told["modelCalls"]] == [of_call(1)]
    assert told.get("toolCalls", []) == []


@pytest.mark.parametrize("traceparent", [None, NOT_KEPT, "nonsense"])
async def test_a_report_without_a_trace_says_only_when_the_attempt_began(
    traceparent: str | None,
) -> None:
    sent = {"traceparent": traceparent} if traceparent else {}
    async with working() as operator:
        told = report((await operator.send(ATTEMPT, **sent)).json()["task"])
    assert told.get("modelCalls", []) == told.get("toolCalls", []) == []
    assert abs(float(told["startedAt"]) - time.time()) < 60


async def test_every_line_about_an_attempt_names_its_trace_and_correlation_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import json
    import logging

    from corral.telemetry.logs import JsonFormatter

    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    handler = Lines()
    logger = logging.getLogger("corral.worker")
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, "corral.worker")
    model = simulated(call("add", a=1, b=2))
    try:
        async with (
            tools() as server,
            working(agent={"tools": [server.entry()]}, simulation=model["simulation"]) as operator,
        ):
            await operator.send(ATTEMPT, **SENT)
    finally:
        logger.removeHandler(handler)
    said = [line["message"] for line in lines]
    assert said == ["Tool add is called.", "An attempt succeeded."]
    for line in lines:
        assert (line["attempt"], line["correlation_id"], line["trace_id"]) == (
            ATTEMPT,
            "c-1",
            TRACE,
        )
