"""A gateway that says exactly what a test wants, cut where it wants: for clients' behaviour at the seams.

Real HTTP on a real socket. Each request for events is answered by the next script in line.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Said = tuple[str, str, dict[str, Any]]


@dataclass(frozen=True)
class Script:
    """One answer: a status, the events to send, its end (`clean`, `reset`, or `open` until closed)."""

    events: Sequence[Said] = ()
    ending: str = "clean"
    status: int = 200
    problem: dict[str, Any] | None = None


class ScriptedGateway:
    """Serves scripts in order; the last one again and again. `asked` are the Last-Event-IDs it was sent."""

    def __init__(self, *scripts: Script, run: dict[str, Any] | None = None) -> None:
        self.scripts = list(scripts)
        self.asked: list[str | None] = []
        self.started: list[tuple[str, dict[str, Any], str | None]] = []
        self.run = run or {}
        self._closing = threading.Event()
        outer = self

        class Handler(_Handler):
            gateway = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_script(self) -> Script:
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]

    def wait_closing(self) -> None:
        self._closing.wait(30)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: ScriptedGateway

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.gateway.started.append((self.path, body, self.headers.get("Idempotency-Key")))
        self._json(202, self.gateway.run)

    def do_GET(self) -> None:
        if not self.path.endswith("/events"):
            self._json(200, self.gateway.run)
            return
        self.gateway.asked.append(self.headers.get("Last-Event-ID"))
        script = self.gateway.next_script()
        if script.problem is not None or script.status == 204:
            self._json(script.status, script.problem)
            return
        self.send_response(script.status)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for cursor, kind, data in script.events:
            self._chunk(f"id: {cursor}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        self._end(script.ending)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _end(self, ending: str) -> None:
        self.close_connection = True
        if ending == "clean":
            self._chunk(b"")
        elif ending == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.gateway.wait_closing()

    def _json(self, status: int, body: dict[str, Any] | None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
