"""Which span is which: W3C trace context, and span ids that can be told again.

A span's id is made of what the span is about, never by chance. So an operator that takes over
names the spans of a run as the one before it did, and a span that is told of twice is one span.
"""

from dataclasses import dataclass
from hashlib import sha256

from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
"""The header's name, and the key in a tool call's ``_meta``."""


@dataclass(frozen=True)
class SpanRef:
    """One span of one trace, as others refer to it."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool = True
    """Whether the trace is kept; if not, it is handed on and nobody tells of its spans."""

    @classmethod
    def parse(cls, traceparent: str | None) -> "SpanRef | None":
        """Of a ``traceparent``; None if it is none, and a new trace has to begin."""
        if not traceparent:
            return None
        told = TraceContextTextMapPropagator().extract({TRACEPARENT: traceparent})
        context = get_current_span(told).get_span_context()
        if not context.is_valid:
            return None
        return cls(
            f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled
        )

    def child(self, *about: str) -> "SpanRef":
        """The span of that in the same trace; ``about`` starts with the run's or attempt's id."""
        return SpanRef(self.trace_id, span_id(*about), self.sampled)

    @property
    def traceparent(self) -> str:
        """As a header has it."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


def span_id(*about: str) -> str:
    """The id of the span about that: 16 hexadecimal digits, the same every time."""
    return sha256("\0".join(about).encode()).hexdigest()[:16]
