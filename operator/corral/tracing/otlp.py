"""Spans to a collector: OTLP over HTTP, by OpenTelemetry's exporter and its variables."""

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import requests
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from corral.api.trace import SpanRef
from corral.telemetry.text import cleaned
from corral.tracing.errors import CollectorAwayError, SpansRefusedError
from corral.tracing.span import Span, SpanKind, Value

log = logging.getLogger(__name__)

_REFUSED = frozenset({400, 413, 415, 422})
"""Answers that are about the spans. Those about who asks, or where (401, 403, 404, …), change when
somebody sets that right."""
_VERSION = version("corral")
_SCOPE = InstrumentationScope("corral", _VERSION)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
    SpanKind.SERVER: trace.SpanKind.SERVER,
}


class Exporter:
    """Sends spans, and decides of which traces: as the OTEL_ variables say.

    Raises:
        ValueError: a variable is not as it has to be.
    """

    def __init__(self) -> None:
        self._session = _Session()
        # It says of every failure what is said here too, and cannot tell for how long.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(session=self._session, compression=_compression())
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._threads = ThreadPoolExecutor(1, "spans")

    def sampled(self, trace_id: str, caller: SpanRef | None) -> bool:
        """Whether a trace is kept; the same every time."""
        parent, digits = Context(), trace_id
        if caller is None:
            # Not all of a UUID is chance, and samplers go by the digits that are not.
            digits = sha256(trace_id.encode()).hexdigest()[:32]
        else:
            flags = _SAMPLED if caller.sampled else TraceFlags(TraceFlags.DEFAULT)
            context = SpanContext(int(trace_id, 16), int(caller.span_id, 16), True, flags)
            parent = trace.set_span_in_context(trace.NonRecordingSpan(context), parent)
        decision = self._sampler.should_sample(parent, int(digits, 16), "invoke_workflow")
        return decision.decision is Decision.RECORD_AND_SAMPLE

    async def export(self, spans: Sequence[Span]) -> int:
        """Sends spans.

        Returns:
            How many of them the collector did not take, though it took the others.

        Raises:
            CollectorAwayError: they may be taken another time.
            SpansRefusedError: they never will.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: self._export(spans)
        )

    def close(self) -> None:
        """Lets go of the connection; a call that hangs there is left behind."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _export(self, spans: Sequence[Span]) -> int:
        self._session.forget()
        try:
            readable = [_readable(span) for span in spans]
        except ValueError as error:
            raise SpansRefusedError(f"they can't be told of: {error}") from error
        done = self._exporter.export(readable)
        answer = self._session.answer
        if answer is None:
            if not self._session.asked:
                raise SpansRefusedError("they can't be encoded")
            raise CollectorAwayError("it does not answer")
        status = f"it answers {answer.status_code} {_line(answer.text)}".rstrip()
        if answer.status_code in _REFUSED:
            raise SpansRefusedError(status)
        if done is not SpanExportResult.SUCCESS or answer.status_code >= 300:
            raise CollectorAwayError(status)
        return _rejected(answer.content)


class _Session(requests.Session):
    """Remembers what the collector said: the exporter tells only whether it worked."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.asked = False
        self.answer: requests.Response | None = None

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        self.asked, self.answer = True, None
        self.answer = super().request(*args, **kwargs)
        return self.answer


def _compression() -> Compression | None:
    """Of spans nine tenths are the same words, so they are compressed unless somebody says no."""
    told = ("OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION")
    return None if any(os.environ.get(name) for name in told) else Compression.Gzip


def _rejected(content: bytes) -> int:
    """How many spans a collector did not take, as it says in an answer that is a success."""
    try:
        partial = ExportTraceServiceResponse.FromString(content).partial_success
    except DecodeError:  # JSON, or nothing that anybody can read
        return 0
    if partial.error_message:
        log.warning("the collector says: %s", _line(partial.error_message))
    return int(partial.rejected_spans)


def _line(text: str) -> str:
    return cleaned(" ".join(text.split()))[:200]


def _readable(span: Span) -> ReadableSpan:
    trace_id = int(span.trace_id, 16)
    parent = None
    if span.parent_id is not None:
        parent = SpanContext(trace_id, int(span.parent_id, 16), False, _SAMPLED)
    status = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET)
    return ReadableSpan(
        span.name,
        SpanContext(trace_id, int(span.span_id, 16), False, _SAMPLED),
        parent,
        _resource(tuple(span.resource.items())),
        dict(span.attributes),
        links=[
            trace.Link(
                SpanContext(int(link.trace_id, 16), int(link.span_id, 16), False, _SAMPLED),
                dict(link.attributes),
            )
            for link in span.links
        ],
        kind=_KINDS[span.kind],
        status=status,
        start_time=_nanoseconds(span.started_at),
        end_time=_nanoseconds(span.ended_at),
        instrumentation_scope=_SCOPE,
    )


def _nanoseconds(moment: float) -> int:
    return round(moment * 1_000_000) * 1000


@lru_cache(maxsize=1024)
def _resource(attributes: tuple[tuple[str, Value], ...]) -> Resource:
    """What OTEL_RESOURCE_ATTRIBUTES says, and whose spans these are.

    Not which process exports them: what is exported once more is what it was before.
    """
    told = OTELResourceDetector().detect()
    return told.merge(Resource({SERVICE_VERSION: _VERSION, **dict(attributes)}))
