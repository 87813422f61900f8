"""Spans as they wait to be exported: those that are told of together, as text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corral.tracing.span import Link, Span, SpanKind, Value


@dataclass(frozen=True)
class Parcel:
    """Spans that come to be known at once; told of again, they have the same key."""

    key: str
    spans: tuple[Span, ...]

    def to_text(self) -> str:
        return json.dumps([_to_json(span) for span in self.spans], separators=(",", ":"))

    @classmethod
    def from_text(cls, key: str, text: str) -> "Parcel":
        return cls(key, tuple(_from_json(found) for found in json.loads(text)))


def _to_json(span: Span) -> dict[str, Any]:
    return {
        "trace": span.trace_id,
        "span": span.span_id,
        "parent": span.parent_id,
        "name": span.name,
        "from": span.started_at,
        "to": span.ended_at,
        "kind": span.kind.value,
        "attributes": dict(span.attributes),
        "error": span.error,
        "links": [[link.trace_id, link.span_id, dict(link.attributes)] for link in span.links],
        "resource": dict(span.resource),
    }


def _from_json(found: Mapping[str, Any]) -> Span:
    return Span(
        found["trace"],
        found["span"],
        found["parent"],
        found["name"],
        found["from"],
        found["to"],
        SpanKind(found["kind"]),
        _values(found["attributes"]),
        found["error"],
        tuple(Link(trace, span, _values(why)) for trace, span, why in found["links"]),
        _values(found["resource"]),
    )


def _values(found: Mapping[str, Any]) -> dict[str, Value]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
    }
