"""What rows stand on: a fresh server, real worker and gateway processes, figures, and percentiles."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent


@dataclass(kw_only=True)
class Row:
    """One line of the table. `met` is None where there is no goal to meet."""

    name: str
    figure: str
    baseline: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    load: float = 0.0
    """The machine's load average: over the row's own two or so, others had their share of the cores."""
    slowed: float = 1.0
    """How much longer a fixed piece of Python took meanwhile than at its fastest (`pace.py`)."""
    tries: int = 1
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def core(self) -> str:
        """The slow-down as tables show it."""
        return f"{self.slowed:.2f} ×" + (f", of {self.tries}" if self.tries > 1 else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"core": self.core}


@dataclass(kw_only=True)
class Bench:
    """A fresh server and everything started on it; `scale` shrinks loads for quick runs."""

    server: EmbeddedServer
    directory: Path
    scale: float
    kept: contextlib.ExitStack | None = None
    """Where quick runs keep the worker and the gateway that all their rows share."""
    _worker: psutil.Process | None = None
    _gateway: tuple[psutil.Process, int] | None = None

    @property
    def quick(self) -> bool:
        return self.scale < 1

    def judge(self, met: bool) -> bool | None:  # noqa: FBT001 - reads as a sentence
        """A goal for the full load; at a quick run's small load fixed costs would decide."""
        return None if self.quick else met

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "MAINSTEM_REDIS_URL": self.server.url(0),
            "MAINSTEM_BROKER_URL": self.server.url(1),
            "MAINSTEM_ENGINES": "load",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        }

    def settings(self, **changes: Any) -> Settings:
        urls: dict[str, Any] = {"redis_url": self.server.url(0), "broker_url": self.server.url(1)}
        return Settings(**urls, **changes)

    def scaled(self, count: int, least: int = 1) -> int:
        return max(least, int(count * self.scale))

    @contextlib.contextmanager
    def process(self, name: str, *arguments: str, **env: str) -> Iterator[psutil.Process]:
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], env={**self.env, **env}, stdout=log, stderr=log
            )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def worker(self, **env: str) -> Iterator[psutil.Process]:
        """A worker, ready for runs; in quick runs one for all rows without settings of their own."""
        if self.kept is None or env:
            with self._new_worker(**env) as process:
                yield process
            return
        self._worker = self._worker or self.kept.enter_context(self._new_worker())
        yield self._worker

    @contextlib.contextmanager
    def gateway(self) -> Iterator[tuple[psutil.Process, int]]:
        if self.kept is None:
            with self._new_gateway() as gateway:
                yield gateway
            return
        self._gateway = self._gateway or self.kept.enter_context(self._new_gateway())
        yield self._gateway

    @contextlib.contextmanager
    def _new_worker(self, **env: str) -> Iterator[psutil.Process]:
        name = f"worker{time.monotonic_ns()}"
        arguments = ("-m", "mainstem_workers", "worker", "--loglevel", "INFO", "-n", f"{name}@bench")
        with self.process(name, *arguments, **env) as process:
            wait_for(lambda: "@bench ready" in (self.directory / f"{name}.log").read_text(), "a worker")
            yield process

    @contextlib.contextmanager
    def _new_gateway(self) -> Iterator[tuple[psutil.Process, int]]:
        port = free_port()
        program = (
            "from mainstem_api.gateway.server import serve; from mainstem_shared.settings import Settings; "
            f"serve(Settings(port={port}), log_level='warning')"
        )
        with self.process("gateway", "-c", program) as process:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the gateway")
            yield process, port


@contextlib.contextmanager
def bench(scale: float, *, keep: bool = False) -> Iterator[Bench]:
    """A fresh server in a directory of its own, gone afterwards. `keep`: rows share worker and gateway."""
    directory = Path(tempfile.mkdtemp(prefix="mainstem-bench-"))
    server = EmbeddedServer.start_or_adopt(directory / "data")
    try:
        with contextlib.ExitStack() as kept:
            yield Bench(server=server, directory=directory, scale=scale, kept=kept if keep else None)
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def wait_for(condition: Any, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def store_cpu_s(client: Any) -> float:
    """CPU seconds of the server so far."""
    used = await client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.asynccontextmanager
async def sse(port: int, run_id: str, query: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """An event stream as bytes, after its headers; nothing parsed, so that the client costs little.

    A gateway under overload answers 503 and is asked again, as any client does.
    """
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        try:
            writer.write(
                f"GET /v1/runs/{run_id}/events{query} HTTP/1.1\r\nHost: localhost\r\n"
                "Accept: text/event-stream\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 503 " not in head.split(b"\r\n", 1)[0]:
                assert b" 200 " in head.split(b"\r\n", 1)[0], head
                yield reader
                return
        finally:
            writer.close()
        await asyncio.sleep(0.5)
    raise TimeoutError(f"the gateway refused {run_id} for ten seconds")


def data_of(line: bytes) -> Any:
    return json.loads(line[6:])


async def unfinished(client: Any) -> int:
    """How many runs are unfinished, in all buckets."""
    pipe = client.pipeline(transaction=False)
    for bucket in keys.INDEXES:
        pipe.zcard(bucket.active)
    return sum(await pipe.execute())
