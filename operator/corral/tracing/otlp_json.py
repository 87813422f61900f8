"""Spans as OTLP's JSON, and read from it: what collectors write into files and stores answer.

Ids are hexadecimal there, as OpenTelemetry has it; read are those in base64 too, of stores that
take protobuf's own JSON for it.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp

from corral.tracing.span import Link, Span, SpanKind, Value

SCOPE = "corral"
"""Who tells of the spans, in OpenTelemetry's words: the instrumentation's name."""
_IDS = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
"""Fields that hold an id, and its bytes."""
_KINDS = {
    SpanKind.INTERNAL: otlp.Span.SPAN_KIND_INTERNAL,
    SpanKind.CLIENT: otlp.Span.SPAN_KIND_CLIENT,
    SpanKind.SERVER: otlp.Span.SPAN_KIND_SERVER,
}
_NAMES = {number: kind for kind, number in _KINDS.items()}
_NANOS = 10**9


class OtlpError(ValueError):
    """This is no OTLP JSON."""


def read(data: Any) -> list[Span]:
    """The spans in a parsed JSON object, in its order.

    It is OTLP's ``resourceSpans``, or what has it: Jaeger's ``result``, Tempo's ``trace`` or
    ``batches``.

    Raises:
        OtlpError: it is none of these, or a field of it is wrong.
    """
    for wrapper in ("result", "trace"):
        if isinstance(data, Mapping) and isinstance(data.get(wrapper), Mapping):
            data = data[wrapper]
    if not isinstance(data, Mapping):
        raise OtlpError(f"this is no OTLP JSON: it is no object, but {str(data)[:40]!r}")
    told = data.get("resourceSpans", data.get("batches"))
    if told is None:
        if data:
            names = ", ".join(sorted(data))
            raise OtlpError(f"this is no OTLP JSON: it has no resourceSpans, but {names[:80]}")
        told = []
    try:
        found = json_format.ParseDict(
            {"resourceSpans": _coded(told, _to_base64)},
            otlp.TracesData(),
            ignore_unknown_fields=True,
        )
    except json_format.ParseError as error:
        raise OtlpError(f"this is no OTLP JSON: {error}") from None
    return [
        _span(span, of.resource)
        for of in found.resource_spans
        for scope in of.scope_spans
        for span in scope.spans
    ]


def written(spans: Iterable[Span]) -> dict[str, Any]:
    """OTLP's JSON of spans; those of one process in a row stand together."""
    traces = otlp.TracesData()
    for resource, own in groupby(spans, key=lambda span: dict(span.resource)):
        of = traces.resource_spans.add()
        of.resource.attributes.extend(_attributes(resource))
        scope = of.scope_spans.add()
        scope.scope.name = SCOPE
        scope.spans.extend(_message(span) for span in own)
    made = json_format.MessageToDict(traces, use_integers_for_enums=True)
    coded: dict[str, Any] = _coded(made, _to_hex)
    return coded


def _coded(value: Any, code: Callable[[str, str], str]) -> Any:
    """The same JSON with every id coded anew."""
    if isinstance(value, list):
        return [_coded(each, code) for each in value]
    if not isinstance(value, Mapping):
        return value
    # What looks like an id in an attribute is none.
    made = {key: each if key == "attributes" else _coded(each, code) for key, each in value.items()}
    ids = {key: each for key, each in value.items() if key in _IDS and isinstance(each, str)}
    return made | {key: code(key, each) for key, each in ids.items()}


def _to_base64(field: str, text: str) -> str:
    size = _IDS[field]
    try:
        if not text or len(text) == 2 * size:
            return b64encode(bytes.fromhex(text)).decode()
        if len(b64decode(text, validate=True)) == size:
            return text
    except (ValueError, binascii.Error):
        pass
    raise OtlpError(f"this is no OTLP JSON: {field} {text[:40]!r} is no id of {size} bytes")


def _to_hex(_: str, text: str) -> str:
    return b64decode(text).hex()


def _span(message: otlp.Span, resource: Resource) -> Span:
    failed = message.status.code == otlp.Status.STATUS_CODE_ERROR
    return Span(
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex() or None,
        message.name,
        message.start_time_unix_nano / _NANOS,
        # A span that has not ended has no end.
        max(message.start_time_unix_nano, message.end_time_unix_nano) / _NANOS,
        _NAMES.get(message.kind, SpanKind.INTERNAL),
        _values(message.attributes),
        (message.status.message or "failed") if failed else None,
        tuple(
            Link(link.trace_id.hex(), link.span_id.hex(), _values(link.attributes))
            for link in message.links
        ),
        _values(resource.attributes),
    )


def _message(span: Span) -> otlp.Span:
    status = None
    if span.error is not None:
        status = otlp.Status(code=otlp.Status.STATUS_CODE_ERROR, message=span.error)
    return otlp.Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id or ""),
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=_nanos(span.started_at),
        end_time_unix_nano=_nanos(span.ended_at),
        attributes=_attributes(span.attributes),
        links=[
            otlp.Span.Link(
                trace_id=bytes.fromhex(link.trace_id),
                span_id=bytes.fromhex(link.span_id),
                attributes=_attributes(link.attributes),
            )
            for link in span.links
        ],
        status=status,
    )


def _nanos(seconds: float) -> int:
    """To the microsecond: a float of today's date is not finer."""
    return round(seconds * 10**6) * 1000


def _attributes(values: Mapping[str, Value]) -> Iterator[KeyValue]:
    for key, value in values.items():
        yield KeyValue(key=key, value=_any(value))


def _any(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
    return AnyValue(array_value=ArrayValue(values=[_any(each) for each in value]))


def _values(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case "array_value":
            return tuple(str(_value(each)) for each in value.array_value.values)
        case "kvlist_value":
            return str(_values(value.kvlist_value.values))
        case "bytes_value":
            return value.bytes_value.hex()
        case None:
            return ""
        case name:
            found: Value = getattr(value, name)
            return found
