"""Runs a gateway in a thread or a process, and reads its event streams from the raw socket.

A gateway runs under uvicorn in a thread of its own. Whoever starts one stops it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from mainstem_api.gateway import Server, create_app
from mainstem_shared.model.cursors import Cursor, parse
from mainstem_shared.settings import Settings
from support.processes.servers import Guard, free_port
from support.waiting import wait_until


class GatewayThread:
    """One gateway. Use it as a context manager."""

    def __init__(self, store_url: str, broker_url: str, *, port: int = 0, **settings: Any) -> None:
        given: dict[str, Any] = {
            "redis_url": store_url,
            "broker_url": broker_url,
            "sweep_s": 3600,
            **settings,
        }
        self.settings = Settings(port=port, **given)
        self.app = create_app(self.settings)
        self.server = Server(self.app, self.settings, log_config=None)
        self._thread = threading.Thread(target=self._run, name="gateway")

    def _run(self) -> None:
        asyncio.run(self.server.serve())

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(
            lambda: self.server.started or not self._thread.is_alive(), description="the gateway to start"
        )
        assert self.server.started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop as a signal does, and wait for the end."""
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def port(self) -> int:
        return self.server.servers[0].sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def subscriptions(self) -> int:
        """Readers that this gateway serves right now."""
        return self.app.state.holder.gateway.tailer.subscriptions

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20)


class Event(NamedTuple):
    """One event of a stream."""

    cursor: Cursor
    type: str
    data: bytes


class Stream:
    """An open event stream: iterate for events. `ended` is "clean" or "reset" afterwards."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.ended = ""
        self.heartbeats = 0
        self._bytes = response.aiter_raw()
        self._searched = 0
        self._buffer = bytearray()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            end = self._buffer.find(b"\n\n", self._searched)
            if end >= 0:
                block = bytes(self._buffer[:end])
                del self._buffer[: end + 2]
                self._searched = 0
                if block.startswith(b":"):
                    self.heartbeats += 1
                    continue
                return _event(block)
            self._searched = max(0, len(self._buffer) - 1)
            try:
                self._buffer += await anext(self._bytes)
            except StopAsyncIteration:
                self.ended = "clean"
                assert not self._buffer
                raise
            except (httpx.RemoteProtocolError, httpx.ReadError):
                self.ended = "reset"
                raise StopAsyncIteration from None


def _event(block: bytes) -> Event:
    """Three lines, in this order, nothing else."""
    assert b"\r" not in block
    first, second, third = block.split(b"\n")
    assert first.startswith(b"id: ")
    assert second.startswith(b"event: ")
    assert third.startswith(b"data: ")
    return Event(parse(first[4:]), second[7:].decode(), third[6:])


@asynccontextmanager
async def open_stream(
    client: httpx.AsyncClient, run_id: str, *, last: Cursor | str | None = None, **params: str
) -> AsyncIterator[Stream]:
    """Open a run's stream; `last` goes out as Last-Event-ID."""
    headers = {"Last-Event-ID": str(last)} if last is not None else {}
    async with client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers, params=params) as response:
        yield Stream(response)


class GatewayProcess:
    """A gateway in a process of its own, as a deployment has it. Use it as a context manager."""

    def __init__(self, store_url: str, broker_url: str, **settings: Any) -> None:
        self.port = free_port()
        given = {"redis_url": store_url, "broker_url": broker_url, "port": self.port, **settings}
        self._environment = {f"MAINSTEM_{name.upper()}": str(value) for name, value in given.items()}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from mainstem_api.gateway import serve; serve(log_level='warning')"],
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        self._guard = Guard(self._process.pid)
        try:
            wait_until(self._is_ready, description="the gateway process to be ready", timeout_s=30)
        except BaseException:
            self.kill()
            raise
        return self

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "the gateway process ended"
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, timeout=5).is_success
        except httpx.TransportError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def terminate(self) -> int:
        """Send SIGTERM and wait; returns the exit status."""
        self._process.terminate()
        return self._process.wait(20)

    def kill(self) -> None:
        """End it at once, whatever state it is in. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        self._guard.dismiss()

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=20)


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """A response is this problem document; returns its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    return body
