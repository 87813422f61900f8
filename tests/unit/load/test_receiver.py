"""The collector of the benchmark: takes what OpenTelemetry's own exporter sends, and counts it."""

import json
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from tests.load.receiver import Receiver


@pytest.fixture
def url() -> Iterator[str]:
    Receiver.spans.clear()
    Receiver.sent.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def spans(count: int) -> list[ReadableSpan]:
    """A span and those within it."""
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("root") as root:
        within = [tracer.start_span("child") for _ in range(count - 1)]
    for one in within:
        one.end()
    made = [root, *within]
    return [one for one in made if isinstance(one, ReadableSpan)]


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_are_counted_by_trace_and_so_is_what_came_again(
    url: str, compression: Compression
) -> None:
    first, second = spans(3), spans(1)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", compression=compression)
    for batch in (first, first[:2], second):
        assert exporter.export(batch) is SpanExportResult.SUCCESS
    exporter.shutdown()
    with urllib.request.urlopen(f"{url}/spans") as answer:
        found = json.loads(answer.read())
    traces = [f"{of[0].context.trace_id:032x}" for of in (first, second)]
    assert found == {traces[0]: [3, 5], traces[1]: [1, 1]}
