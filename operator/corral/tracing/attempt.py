"""The spans of an attempt that is settled: its own, and those of what it asked.

Money is on the spans of model calls alone, so that no sum counts it twice. The spans of an attempt
come to what it was charged: what its worker did not tell call by call has a span that says so.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from corral.api.attempt import (
    MAX_CALL_SPANS,
    AttemptReport,
    ModelCallSpan,
    ModelUsage,
    ToolCallSpan,
)
from corral.api.trace import SpanRef, span_id
from corral.plan.observed import Result
from corral.plan.state import Charge, Worker
from corral.telemetry.text import cleaned
from corral.tracing import genai
from corral.tracing.span import OPERATOR, Link, Span, SpanKind, Value

Price = Callable[[ModelUsage], Decimal | None]
"""US dollars for what was used; None where no price is known."""

MAX_TOKENS = 10**12
_SPAN_ID = re.compile(r"(?!0{16})[0-9a-f]{16}")
_LAST_MOMENT = 2.0**33
_LONGEST = 10.0**7


@dataclass(frozen=True)
class Attempt:
    """What is known of an attempt besides its result."""

    root: SpanRef
    """The span of its run."""
    attempt_id: str
    namespace: str
    agent: str | None = None
    tool: str | None = None
    """The tool that it calls, if its step is a tool's."""
    started: float | None = None
    """By the operator's clock; None where nobody knows any more."""
    follows: str | None = None
    """Why the attempt before it was not the last; None where that is not known."""
    correlation_id: str | None = None

    @property
    def span(self) -> SpanRef:
        return self.root.child(self.attempt_id)


def attempt_span(
    about: Attempt, started: float, ended: float, outcome: str, message: str = ""
) -> Span:
    """The span of an attempt, whose parent is its declared step's.

    Args:
        outcome: Succeeded, InputRequired, or the class of the error; empty if it has not ended.
    """
    run_id, path, item, iteration, number = about.attempt_id.rsplit(".", 4)
    attributes: dict[str, Value] = {
        genai.OPERATION: genai.EXECUTE_TOOL if about.tool else genai.INVOKE_AGENT,
        genai.NAMESPACE: about.namespace,
        genai.CONVERSATION: run_id,
        genai.RUN_ID: run_id,
        genai.STEP: ".".join(path.split("~")[::3]),
        genai.ITEM: int(item),
        genai.ITERATION: int(iteration),
        genai.ATTEMPT: int(number),
        genai.ATTEMPT_ID: about.attempt_id,
    }
    if outcome:
        attributes[genai.OUTCOME] = outcome
    if about.correlation_id:
        attributes[genai.CORRELATION_ID] = cleaned(about.correlation_id)
    what = about.agent or "unknown"
    if about.tool:
        what = attributes[genai.TOOL] = cleaned(about.tool)
    elif about.agent:
        attributes[genai.AGENT] = about.agent
    failed = outcome not in ("", "Succeeded", "InputRequired")
    if failed:
        attributes[genai.ERROR_TYPE] = outcome
    links: tuple[Link, ...] = ()
    if int(number) > 1:
        before = f"{about.attempt_id.rsplit('.', 1)[0]}.{int(number) - 1}"
        why = {genai.RETRY_REASON: about.follows} if about.follows else {}
        links = (Link(about.root.trace_id, span_id(before), why),)
    return Span(
        about.root.trace_id,
        about.span.span_id,
        span_id(run_id, path.split("~", 1)[0]),
        f"{attributes[genai.OPERATION]} {what}",
        started,
        max(started, ended),
        SpanKind.CLIENT,
        attributes,
        cleaned(message or outcome) if failed else None,
        links,
        OPERATOR,
    )


def settled(
    about: Attempt, result: Result, worker: Worker | None, price: Price, now: float
) -> tuple[Span, list[Span]]:
    """The spans of an attempt that has ended: its own, and those of its calls.

    Args:
        worker: where it ran; None where that is not known any more.
        now: when its end was known, in seconds since the epoch.
    """
    report = result.report
    started = about.started
    if report is not None:
        told = _number(report.started_at, _LAST_MOMENT)
        started = told if told is not None else started
    worked = _number(str(result.worked), _LONGEST) if result.worked is not None else None
    if started is None:
        started = now - (worked or 0.0)
    ended = now if worked is None else started + worked
    outcome = result.error.value if result.error else "Succeeded"
    if result.input_required is not None:
        outcome = "InputRequired"
    own = attempt_span(about, started, ended, outcome, result.message)
    if report is None:
        return own, []
    return own, list(_Calls(about, own, report, worker).spans(result.charges, price))


class _Calls:
    """What a worker told of an attempt's calls; it may be wrong, and is never believed to count."""

    def __init__(
        self, about: Attempt, own: Span, report: AttemptReport, worker: Worker | None
    ) -> None:
        self._own, self._attempt_id, self._report = own, about.attempt_id, report
        self._taken = {own.span_id}
        self._common: dict[str, Value] = {}
        if about.correlation_id:
            self._common[genai.CORRELATION_ID] = cleaned(about.correlation_id)
        self._resource: dict[str, Value] = {
            genai.SERVICE_NAME: "corral-worker",
            genai.SERVICE_INSTANCE: report.pod_uid,
            genai.NAMESPACE: about.namespace,
            genai.POD_UID: report.pod_uid,
        }
        if worker is not None:
            self._resource[genai.POD] = worker.pod

    def spans(self, charges: Sequence[Charge], price: Price) -> Iterator[Span]:
        by_model: dict[tuple[str, bool], list[ModelCallSpan]] = {}
        for call in self._report.model_calls[:MAX_CALL_SPANS]:
            by_model.setdefault((call.model_ref, call.simulated), []).append(call)
        for charge in charges:
            calls = by_model.get((charge.usage.model_ref, charge.usage.simulated), [])
            yield from self._of_charge(charge, calls, price)
        for tool_call in self._report.tool_calls[:MAX_CALL_SPANS]:
            attributes: dict[str, Value] = {
                genai.OPERATION: genai.EXECUTE_TOOL,
                genai.TOOL: cleaned(tool_call.tool),
                genai.TOOL_TYPE: "extension",
                genai.OUTCOME: cleaned(tool_call.outcome),
            }
            if tool_call.entry:
                attributes[genai.TOOL_ENTRY] = cleaned(tool_call.entry)
            if tool_call.call_id:
                attributes[genai.TOOL_CALL_ID] = cleaned(tool_call.call_id)
            error = cleaned(tool_call.outcome) if tool_call.outcome != "Answered" else None
            name = f"{genai.EXECUTE_TOOL} {cleaned(tool_call.tool)}"
            if (
                span := self._span(tool_call, name, SpanKind.INTERNAL, attributes, error)
            ) is not None:
                yield span

    def _of_charge(
        self, charge: Charge, calls: Sequence[ModelCallSpan], price: Price
    ) -> Iterator[Span]:
        """The spans of the calls that one charge is for, and of what they leave of it."""
        usage, used = charge.usage, charge.used
        rest = _Amounts(
            used.requests,
            used.input_tokens,
            used.output_tokens,
            int(usage.cached_input_tokens),
            used.cost,
            used.unpriced_requests,
        )
        for call in calls:
            try:
                amounts = _of_call(call, charge, price)
            except ValueError:
                continue
            attributes = _of_model(usage, call) | amounts.attributes()
            error = call.error_class.value if call.error_class else None
            name = f"{genai.CHAT} {cleaned(call.model)}"
            span = self._span(call, name, SpanKind.CLIENT, attributes, error)
            if span is not None:
                rest.less(amounts)
                yield span
        if rest.requests <= 0 and not rest.cost and rest.unpriced <= 0:
            return
        untold: dict[str, Value] = {genai.UNTOLD_REQUESTS: max(0, rest.requests)}
        yield Span(
            self._own.trace_id,
            span_id(self._attempt_id, "rest", usage.model_ref, str(usage.simulated)),
            self._own.span_id,
            f"{genai.CHAT} {cleaned(usage.model)}",
            self._own.started_at,
            self._own.ended_at,
            SpanKind.CLIENT,
            self._common | _of_model(usage, None) | untold | rest.attributes(),
            resource=self._resource,
        )

    def _span(
        self,
        call: ModelCallSpan | ToolCallSpan,
        name: str,
        kind: SpanKind,
        attributes: dict[str, Value],
        error: str | None,
    ) -> Span | None:
        """None for what can't be: an id that is none or is taken, a time that is none."""
        started = _number(call.started_at, _LAST_MOMENT)
        lasted = _number(call.seconds, _LONGEST)
        known = _SPAN_ID.fullmatch(call.span_id) and call.span_id not in self._taken
        if started is None or lasted is None or not known:
            return None
        self._taken.add(call.span_id)
        if error is not None:
            attributes[genai.ERROR_TYPE] = error
        return Span(
            self._own.trace_id,
            call.span_id,
            self._own.span_id,
            name,
            started,
            started + lasted,
            kind,
            self._common | attributes,
            error,
            resource=self._resource,
        )


@dataclass
class _Amounts:
    """What calls used."""

    requests: int
    input_tokens: int
    output_tokens: int
    cached: int
    cost: Decimal | None
    unpriced: int

    def less(self, told: "_Amounts") -> None:
        """Takes off what has a span of its own, as whoever adds up spans reads it."""
        self.requests -= told.requests
        self.input_tokens -= told.input_tokens
        self.output_tokens -= told.output_tokens
        self.cached -= told.cached
        self.unpriced -= told.unpriced
        if self.cost is not None and told.cost is not None:
            self.cost -= Decimal(repr(float(told.cost)))

    def attributes(self) -> dict[str, Value]:
        found: dict[str, Value] = {
            genai.INPUT_TOKENS: max(0, self.input_tokens),
            genai.OUTPUT_TOKENS: max(0, self.output_tokens),
        }
        if self.cached > 0:
            found[genai.CACHED_INPUT_TOKENS] = self.cached
        if self.cost is not None:
            found[genai.COST] = float(self.cost)
        if self.unpriced > 0:
            found[genai.UNPRICED] = self.unpriced
        return found


def _of_call(call: ModelCallSpan, charge: Charge, price: Price) -> _Amounts:
    """What one call used; raises ``ValueError`` for counts that are none."""
    texts = (call.input_tokens, call.output_tokens, call.cached_input_tokens)
    tokens_in, tokens_out, cached = (max(0, min(int(text), MAX_TOKENS)) for text in texts)
    cost = None
    if charge.used.cost is not None and not call.unanswered:
        usage = charge.usage.model_copy(
            update={
                "requests": "1",
                "input_tokens": str(tokens_in),
                "output_tokens": str(tokens_out),
                "cached_input_tokens": str(cached),
            }
        )
        cost = charge.used.cost if charge.used.requests == 1 else price(usage)
    return _Amounts(1, tokens_in, tokens_out, cached, cost, int(cost is None))


def _of_model(usage: ModelUsage, call: ModelCallSpan | None) -> dict[str, Value]:
    attributes: dict[str, Value] = {
        genai.OPERATION: genai.CHAT,
        genai.PROVIDER: cleaned(usage.provider),
        genai.REQUEST_MODEL: cleaned(usage.model),
        genai.MODEL_REF: cleaned(usage.model_ref),
    }
    if usage.simulated:
        attributes[genai.SIMULATED] = True
    if call is not None:
        if call.response_model:
            attributes[genai.RESPONSE_MODEL] = cleaned(call.response_model)
        if call.response_id:
            attributes[genai.RESPONSE_ID] = cleaned(call.response_id)
        if call.finish_reason:
            attributes[genai.FINISH_REASONS] = (cleaned(call.finish_reason),)
    return attributes


def _number(text: str | None, limit: float) -> float | None:
    """A number of seconds that can be; None for any other text."""
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if 0 <= number < limit else None
