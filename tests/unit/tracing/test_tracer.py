"""Which runs are traced, and what is handed on."""

from typing import Any

import pytest

from corral.api.trace import SpanRef, span_id
from corral.plan.names import ANNOTATION_TRACEPARENT
from corral.tracing.run import trace_id_of
from corral.tracing.tracer import Tracer, endpoint

CALLER = SpanRef("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
UNSAMPLED = SpanRef(CALLER.trace_id, CALLER.span_id, sampled=False)


def as_the_caller(_: str, caller: SpanRef | None) -> bool:
    return caller is None or caller.sampled


ON, OFF = Tracer(as_the_caller), Tracer()


def workflow(caller: SpanRef | None = None, trace_id: str | None = None) -> dict[str, Any]:
    annotations = {ANNOTATION_TRACEPARENT: caller.traceparent} if caller else {}
    meta = {"namespace": "n", "name": "w", "uid": "u1", "annotations": annotations}
    return {"metadata": meta, "status": {"traceID": trace_id} if trace_id else {}}


def test_a_run_that_begins_has_its_own_trace_or_its_callers() -> None:
    assert ON.begin(workflow()) == trace_id_of("u1")
    assert ON.begin(workflow(CALLER)) == CALLER.trace_id
    assert OFF.begin(workflow(CALLER)) is None


def test_an_attempt_is_told_its_span() -> None:
    told = ON.attempt(workflow(CALLER, CALLER.trace_id), "u1.s.0.1.1")
    assert told == f"00-{CALLER.trace_id}-{span_id('u1.s.0.1.1')}-01"


def test_what_a_step_makes_is_told_the_steps_span() -> None:
    told = ON.step(workflow(CALLER, CALLER.trace_id), "call")
    assert told == f"00-{CALLER.trace_id}-{span_id('u1', 'call')}-01"


def test_a_trace_that_is_not_kept_is_handed_on_as_that() -> None:
    obj = workflow(UNSAMPLED, UNSAMPLED.trace_id)
    root = ON.root(obj)
    assert root is not None
    assert not root.sampled
    assert str(ON.attempt(obj, "u1.s.0.1.1")).endswith("-00")


@pytest.mark.parametrize("tracer", [ON, OFF])
def test_where_a_run_is_not_traced_its_caller_is_handed_on(tracer: Tracer) -> None:
    assert tracer.root(workflow(CALLER)) is None
    assert tracer.attempt(workflow(CALLER), "u1.s.0.1.1") == CALLER.traceparent
    assert tracer.attempt(workflow(), "u1.s.0.1.1") is None


def test_lines_of_the_log_are_of_the_trace_that_there_is() -> None:
    assert ON.trace_id(workflow(None, "c" * 32)) == "c" * 32
    assert ON.trace_id(workflow()) == trace_id_of("u1")
    assert OFF.trace_id(workflow(CALLER)) == CALLER.trace_id
    assert OFF.trace_id(workflow()) is None


def test_nothing_is_traced_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    assert endpoint() == "OTEL_EXPORTER_OTLP_ENDPOINT"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert endpoint() is None


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc'"):
        endpoint()
