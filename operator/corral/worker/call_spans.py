"""An attempt's calls as spans of its trace: what servers are told of them, and what the report is.

A span's id is made when its call begins, as the call's server is told it. pydantic-ai's and the MCP
SDK's own instrumentation make ids by chance, and spans that somebody here would have to export.
"""

from dataclasses import dataclass
from time import monotonic, time
from typing import TYPE_CHECKING

from corral.api.attempt import MAX_CALL_SPANS, ModelCallSpan, ToolCallSpan
from corral.api.trace import SpanRef

if TYPE_CHECKING:
    from corral.worker.outcome import ModelCall, ToolCall

_TEXT_LENGTH = 256


@dataclass(frozen=True)
class Begun:
    """A call that has begun."""

    ordinal: int
    """From 1, of the calls of its attempt, those of models and of tools together."""
    at: float
    """Seconds since the epoch."""
    clock: float
    """The same moment by the monotonic clock."""
    span: SpanRef | None
    """The call's; None where the attempt is in no trace."""

    @property
    def traceparent(self) -> str | None:
        """What the call's server is told."""
        return self.span.traceparent if self.span else None

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return monotonic() - self.clock


class CallSpans:
    """The calls of one attempt that have ended, if its trace is kept.

    Args:
        traceparent: of the attempt's span; what is none is the same as none.
    """

    def __init__(self, attempt_id: str = "", traceparent: str | None = None) -> None:
        self._attempt_id = attempt_id
        self._attempt = SpanRef.parse(traceparent)
        self._begun = 0
        self.model_calls: list[ModelCallSpan] = []
        self.tool_calls: list[ToolCallSpan] = []

    @property
    def trace_id(self) -> str | None:
        """Of the trace that the attempt is in."""
        return self._attempt.trace_id if self._attempt else None

    @property
    def traceparent(self) -> str | None:
        """Of the attempt's span."""
        return self._attempt.traceparent if self._attempt else None

    @property
    def count(self) -> int:
        """How many are held."""
        return len(self.model_calls) + len(self.tool_calls)

    def begin(self) -> Begun:
        """A call that begins now."""
        self._begun += 1
        span = None
        if self._attempt is not None:
            span = self._attempt.child(self._attempt_id, "call", str(self._begun))
        return Begun(self._begun, time(), monotonic(), span)

    def model_called(self, begun: Begun, call: "ModelCall") -> None:
        """A call of a model has ended, in whatever way."""
        if begun.ordinal > MAX_CALL_SPANS or begun.span is None or not begun.span.sampled:
            return
        self.model_calls.append(
            ModelCallSpan(
                span_id=begun.span.span_id,
                started_at=f"{begun.at:.6f}",
                seconds=f"{begun.seconds:.6f}",
                model_ref=call.model_ref,
                provider=call.provider,
                model=call.model,
                response_model=_text(call.response_model),
                response_id=_text(call.response_id),
                finish_reason=_text(call.finish_reason),
                input_tokens=str(call.input_tokens),
                output_tokens=str(call.output_tokens),
                cached_input_tokens=str(call.cached_input_tokens),
                simulated=call.simulated,
                unanswered=call.unanswered,
                error_class=call.error_class,
            )
        )

    def tool_called(self, begun: Begun, call: "ToolCall") -> None:
        """A call of a tool has ended, in whatever way."""
        if begun.ordinal > MAX_CALL_SPANS or begun.span is None or not begun.span.sampled:
            return
        self.tool_calls.append(
            ToolCallSpan(
                span_id=begun.span.span_id,
                started_at=f"{begun.at:.6f}",
                seconds=f"{begun.seconds:.6f}",
                tool=_text(call.tool) or "",
                entry=call.entry,
                call_id=_text(call.call_id),
                outcome=call.outcome,
            )
        )


def _text(said: str | None) -> str | None:
    """What a server said, as a report can carry it: bounded, and without lone surrogates."""
    return said[:_TEXT_LENGTH].encode(errors="replace").decode() if said else None
