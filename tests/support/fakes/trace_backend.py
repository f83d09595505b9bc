"""A backend of traces, as a process: a collector sends it OTLP over HTTP; it writes a line of JSON for each span.

`python trace_backend.py PORT FILE`. The collector itself is a real one (`support.processes.collectors`): of the
exporters that it has, OTLP is the only one whose receiver needs no service of its own.
"""

from __future__ import annotations

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        lines = [json.dumps(one) for one in spans(request)]
        # Unbuffered: one write each, so that two exporters' lines do not mix.
        with Path(sys.argv[2]).open("ab", buffering=0) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def spans(request: ExportTraceServiceRequest) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for resource in request.resource_spans:
        told = {one.key: one.value.string_value for one in resource.resource.attributes}
        found += [plain(told, span) for scope in resource.scope_spans for span in scope.spans]
    return found


def plain(resource: dict[str, str], span: Span) -> dict[str, object]:
    return {
        "service": resource["service.name"],
        "collected": resource.get("collected.by"),
        "name": span.name,
        "kind": int(span.kind),
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "status": int(span.status.code),
        "begin_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "attributes": {one.key: one.value.string_value or one.value.int_value for one in span.attributes},
    }


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
