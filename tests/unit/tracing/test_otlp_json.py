"""Spans as OTLP's JSON, and what stores make of it."""

import json
import math
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.tracing.otlp_json import OtlpError, read, written
from corral.tracing.span import Link, Span, SpanKind

TRACE, ONE, TWO = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
SPAN = Span(
    TRACE,
    ONE,
    TWO,
    "chat gpt-5-mini",
    1764000000.25,
    1764000001.5,
    SpanKind.CLIENT,
    {"cost": 1.23e-05, "n": 2**53, "on": True, "reasons": ("stop", "length")},
    "RateLimited",
    (Link(TRACE, TWO, {"why": "RateLimited"}),),
    {"service.name": "corral-worker"},
)


def one(**changes: Any) -> dict[str, Any]:
    """The one span of a document, as others may write it."""
    span = {
        "traceId": TRACE,
        "spanId": ONE,
        "name": "GET /search",
        "startTimeUnixNano": "1764000000000000000",
        "endTimeUnixNano": "1764000001000000000",
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span | changes]}]}]}


def test_what_is_written_is_read_as_it_was() -> None:
    bare = Span(TRACE, TWO, None, "root", 1764000000.0, 1764000002.0)
    assert read(json.loads(json.dumps(written([SPAN, bare])))) == [SPAN, bare]


def test_ids_are_hexadecimal_and_whole_numbers_text() -> None:
    [resource] = written([SPAN])["resourceSpans"]
    [span] = resource["scopeSpans"][0]["spans"]
    assert (span["traceId"], span["spanId"], span["parentSpanId"]) == (TRACE, ONE, TWO)
    assert (span["kind"], span["status"]["code"]) == (3, 2)
    assert span["startTimeUnixNano"] == "1764000000250000000"
    assert {"key": "n", "value": {"intValue": str(2**53)}} in span["attributes"]
    assert resource["resource"]["attributes"][0]["value"] == {"stringValue": "corral-worker"}


@given(st.decimals(min_value=0, max_value=1000, places=12))
def test_a_cost_stays_the_decimal_that_it_was(amount: Any) -> None:
    span = Span(TRACE, ONE, None, "chat", 0.0, 1.0, attributes={"cost": float(amount)})
    [again] = read(json.loads(json.dumps(written([span]))))
    assert repr(again.attributes["cost"]) == repr(float(amount))


@pytest.mark.parametrize("wrapper", ["result", "trace"])
def test_what_jaeger_and_tempo_put_around_it_is_taken_off(wrapper: str) -> None:
    assert [span.name for span in read({wrapper: one()})] == ["GET /search"]
    assert read({wrapper: {}}) == []


def test_tempos_first_api_says_batches_and_has_ids_in_base64_and_words_for_numbers() -> None:
    coded = {
        "traceId": b64encode(bytes.fromhex(TRACE)).decode(),
        "spanId": b64encode(bytes.fromhex(ONE)).decode(),
        "kind": "SPAN_KIND_SERVER",
        "status": {"code": "STATUS_CODE_ERROR"},
    }
    [span] = read({"batches": one(**coded)["resourceSpans"]})
    assert (span.trace_id, span.span_id) == (TRACE, ONE)
    assert (span.kind, span.error) == (SpanKind.SERVER, "failed")


def test_what_this_version_does_not_know_is_left_out() -> None:
    [span] = read(one(kind=5, flags=257, droppedLinksCount=1, newField={"spanId": ONE}))
    assert (span.kind, span.error, span.parent_id) == (SpanKind.INTERNAL, None, None)


def test_a_span_without_an_end_takes_no_time() -> None:
    [span] = read(one(endTimeUnixNano="0"))
    assert span.ended_at == span.started_at


def test_an_attribute_that_is_called_like_an_id_is_none() -> None:
    told = [{"key": "spanId", "value": {"stringValue": "not hexadecimal"}}]
    [span] = read(one(attributes=told))
    assert span.attributes == {"spanId": "not hexadecimal"}


def test_values_of_every_kind_are_read() -> None:
    values = {
        "list": {"arrayValue": {"values": [{"intValue": "1"}, {"stringValue": "b"}]}},
        "map": {"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": True}}]}},
        "bytes": {"bytesValue": b64encode(b"\x01\xff").decode()},
        "none": {},
        "nan": {"doubleValue": "NaN"},
    }
    told = [{"key": key, "value": value} for key, value in values.items()]
    found = dict(read(one(attributes=told))[0].attributes)
    assert math.isnan(float(str(found.pop("nan"))))
    assert found == {"list": ("1", "b"), "map": "{'a': True}", "bytes": "01ff", "none": ""}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "it is no object"),
        ("spans", "it is no object"),
        ({"data": [{"traceID": TRACE}]}, "it has no resourceSpans, but data"),
        ({"resourceSpans": 3}, "repeated field resourceSpans must be in []"),
        (one(traceId="zz"), "traceId 'zz' is no id of 16 bytes"),
        (one(spanId=TRACE), f"spanId '{TRACE}' is no id of 8 bytes"),
        (one(name=3), "Failed to parse name field"),
    ],
)
def test_what_is_no_otlp_is_told_with_the_field(data: Any, said: str) -> None:
    with pytest.raises(OtlpError, match="this is no OTLP JSON") as told:
        read(data)
    assert said in str(told.value)
