"""Takes spans over OTLP/HTTP on the port it is given, and counts them by trace.

It is a file of its own, that a pod of the operator's image runs. Every path takes spans.
GET /spans: for each trace's id how many spans it has, and how many were sent.
"""

import gzip
import json
import sys
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver(BaseHTTPRequestHandler):
    """One connection of an exporter, or of who asks."""

    protocol_version = "HTTP/1.1"
    lock = Lock()
    spans: dict[str, set[str]] = defaultdict(set)
    sent: dict[str, int] = defaultdict(int)

    def do_POST(self) -> None:
        """Spans."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        with self.lock:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.spans[span.trace_id.hex()].add(span.span_id.hex())
                        self.sent[span.trace_id.hex()] += 1
        self._answer(ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf")

    def do_GET(self) -> None:
        """What has come."""
        with self.lock:
            found = {trace: [len(ids), self.sent[trace]] for trace, ids in self.spans.items()}
        self._answer(json.dumps(found).encode(), "application/json")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing."""

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Receiver).serve_forever()
