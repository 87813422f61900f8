"""Which runs are traced, and what others are told of their spans."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from corral.api.trace import SpanRef
from corral.tracing.run import caller_of, root_of

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

Sampled = Callable[[str, SpanRef | None], bool]
"""Whether a trace is kept, by its id and the span of whoever began it; the same every time."""


def endpoint() -> str | None:
    """The variable that names a collector; None where none does, and nothing is traced.

    Raises:
        ValueError: the collector is to be told in a way that nobody here speaks.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    found = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    for name in _PROTOCOLS:
        if found and (told := os.environ.get(name, "http/protobuf")) != "http/protobuf":
            raise ValueError(f"{name}: {told!r} is not http/protobuf, and nothing else is spoken")
    return found


class Tracer:
    """What the trace of a run is.

    A run is traced from its beginning or not at all: its status tells.

    Args:
        sampled: None where nothing is traced.
    """

    def __init__(self, sampled: Sampled | None = None) -> None:
        self._sampled = sampled and lru_cache(maxsize=4096)(sampled)

    @property
    def on(self) -> bool:
        return self._sampled is not None

    def begin(self, workflow: Mapping[str, Any]) -> str | None:
        """The trace of a run that begins now; None where nothing is traced."""
        return root_of(workflow).trace_id if self._sampled else None

    def root(self, workflow: Mapping[str, Any]) -> SpanRef | None:
        """The span of a run that is traced, sampled or not; None for any other."""
        if self._sampled is None or not (workflow.get("status") or {}).get("traceID"):
            return None
        root = root_of(workflow)
        caller = caller_of(workflow)
        of_caller = caller is not None and caller.trace_id == root.trace_id
        kept = self._sampled(root.trace_id, caller if of_caller else None)
        return SpanRef(root.trace_id, root.span_id, kept)

    def attempt(self, workflow: Mapping[str, Any], attempt_id: str) -> str | None:
        """The ``traceparent`` that an attempt is sent with."""
        return self._below(workflow, attempt_id)

    def step(self, workflow: Mapping[str, Any], step: str) -> str | None:
        """The ``traceparent`` of what a declared step makes."""
        return self._below(workflow, workflow["metadata"]["uid"], step)

    def trace_id(self, workflow: Mapping[str, Any]) -> str | None:
        """The trace that lines of the log belong to; whoever made the Workflow may have one."""
        told = (workflow.get("status") or {}).get("traceID")
        caller = caller_of(workflow)
        return told or (caller.trace_id if caller else self.begin(workflow))

    def _below(self, workflow: Mapping[str, Any], *about: str) -> str | None:
        """A span of the run's; where that is not traced, whoever made it is handed on."""
        root = self.root(workflow)
        span = caller_of(workflow) if root is None else root.child(*about)
        return None if span is None else span.traceparent
