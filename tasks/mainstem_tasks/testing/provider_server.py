"""Answers requests on a raw socket with exactly the bytes that a test scripts: a provider with any quirk.

Any protocol over HTTP/1.1; the head of an answer is a part of the script. Each request gets the next reply,
and the last one again. A connection serves one request.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

RESET: Final = "reset"
"""A step that resets the connection."""
HOLD: Final = "hold"
"""A step that sends nothing more until the client disconnects, or the server is closed."""
_LONGEST_HOLD_S: Final = 120.0
_READ_S: Final = 30.0

Step = bytes | float | str
"""Bytes to send, seconds to wait, RESET or HOLD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sent."""

    path: str
    headers: dict[str, str]
    body: Any


Reply = Sequence[Step] | Callable[[Request], Sequence[Step]]
"""The steps of an answer, or a function that decides on them by the request."""


class ProviderServer:
    """A provider on the loopback interface; use it as a context manager.

    `requests` has what came; `left` is set when a client closed a held connection.
    """

    def __init__(self, *replies: Reply, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.left: threading.Event = threading.Event()
        self._replies = list(replies)
        self._socket = socket.create_server(("127.0.0.1", port))
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """What MAINSTEM_OPENAI_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def reply(self, *replies: Reply) -> None:
        """Answer the next requests with these; forget what was scripted, and all requests."""
        with self._lock:
            self._replies = list(replies)
            self.requests.clear()
            self.left.clear()

    def __enter__(self) -> Self:
        self._spawn(self._serve)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _spawn(self, function: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, name="provider-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self._spawn(self._answer, peer)

    def _answer(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.settimeout(_READ_S)
            request = _read(peer)
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
                reply = self._replies[min(len(self.requests), len(self._replies)) - 1]
            for step in reply(request) if callable(reply) else reply:
                if not self._play(peer, step):
                    return
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(1)
            while peer.recv(65536):
                pass

    def _play(self, peer: socket.socket, step: Step) -> bool:
        """Perform a step; tells whether the answer goes on."""
        match step:
            case bytes():
                peer.sendall(step)
            case str() if step == RESET:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
                return False
            case str():
                self._hold(peer)
                return False
            case _:
                self._closing.wait(float(step))
        return True

    def _hold(self, peer: socket.socket) -> None:
        peer.settimeout(0.05)
        until = time.monotonic() + _LONGEST_HOLD_S
        while time.monotonic() < until and not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                if not peer.recv(65536):
                    break
        self.left.set()


def _read(peer: socket.socket) -> Request | None:
    data = bytearray()
    while b"\r\n\r\n" not in data:
        if not (more := peer.recv(65536)):
            return None
        data += more
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        if not (more := peer.recv(65536)):
            return None
        body += more
    return Request(path=first.split(" ")[1], headers=headers, body=json.loads(body) if body else None)
