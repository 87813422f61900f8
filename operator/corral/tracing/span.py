"""A span, as it is made of what is known, exported, and read again from a store of traces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

Value = str | bool | int | float | tuple[str, ...]
OPERATOR: Mapping[str, Value] = MappingProxyType({"service.name": "corral-operator"})
"""Whose the spans of runs, steps and attempts are: any operator tells the same of them."""


class SpanKind(StrEnum):
    """Who is on the other side, in OpenTelemetry's words."""

    INTERNAL = "Internal"
    CLIENT = "Client"
    SERVER = "Server"


@dataclass(frozen=True)
class Link:
    """Another span that this one has to do with."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """Something that was done, from when to when; ids are hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    started_at: float
    """Seconds since the epoch."""
    ended_at: float
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str | None = None
    """What went wrong, in a sentence; None where nothing did."""
    links: tuple[Link, ...] = ()
    resource: Mapping[str, Value] = field(default_factory=dict)
    """Whose span it is: ``service.name`` and what else tells its process."""
