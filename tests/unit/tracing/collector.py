"""A collector: it takes OTLP over HTTP, and remembers the spans."""

import ctypes
import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Received:
    """A span as a store has it."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    error: str | None
    attributes: dict[str, Any] = field(hash=False)
    links: tuple[tuple[str, str], ...]
    resource: dict[str, Any] = field(hash=False)
    scope: str


class Collector:
    """A server on a free port of this machine.

    Args:
        network: the network namespace to listen in, as a file of /proc; None for this one.
    """

    def __init__(self, network: Path | None = None) -> None:
        self.spans: list[Received] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []
        """Statuses of the next answers; 200 when there is none left."""
        self.status = 200
        self.rejects = 0
        """How many spans of the next request it says it did not take."""
        self._lock = threading.Lock()
        self.requests = 0
        taking = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = taking._take(
                    self.path, {name.lower(): value for name, value in self.headers.items()}, body
                )
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        def listen() -> ThreadingHTTPServer:
            if network is not None:
                with network.open() as namespace:
                    assert _LIBC.setns(namespace.fileno(), _CLONE_NEWNET) == 0
            return ThreadingHTTPServer(("127.0.0.1", 0), Handler)

        # A thread of its own: it does not come back from the other network, its socket stays there.
        with ThreadPoolExecutor(1) as thread:
            self._server = thread.submit(listen).result()
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        assert path == "/v1/traces"
        with self._lock:
            self.requests += 1
            self.headers.append(headers)
            status = self.answers.pop(0) if self.answers else self.status
            if status != 200:
                return status, b"no"
            if headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            self.spans += received(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse()
            if self.rejects:
                answer.partial_success.rejected_spans = self.rejects
                answer.partial_success.error_message = "too old"
                self.rejects = 0
            return 200, answer.SerializeToString()

    def of(self, trace_id: str) -> list[Received]:
        """The spans of a trace, as often as they came."""
        with self._lock:
            return [span for span in self.spans if span.trace_id == trace_id]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def collector(network: Path | None = None) -> Iterator[Collector]:
    """One that is closed afterwards."""
    made = Collector(network)
    try:
        yield made
    finally:
        made.close()


def received(request: ExportTraceServiceRequest) -> Iterator[Received]:
    """What a request has, one by one."""
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Received(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    Told.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.message or "error" if span.status.code == 2 else None,
                    _values(span.attributes),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    resource,
                    of_scope.scope.name,
                )


def _values(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pair: KeyValue
    for pair in pairs:
        found[pair.key] = _value(pair.value)
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(one) for one in value.array_value.values)
    return getattr(value, kind)
