"""The usual hand-written SSE endpoint: one pub/sub connection per subscriber, replay, then what is published.

Written fairly: uvicorn with uvloop, no JSON work, nothing logged. It subscribes before it replays, so that it
loses nothing; it does not notice holes, and a slow reader is not its problem.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import redis.asyncio as redis
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PAYLOAD = b'{"type":"message.delta","run":"01HXYZ","part":0,"text":" word12"}..'
PER_S = 20


def serve(url: str, port: int) -> None:
    client = redis.Redis.from_url(url, max_connections=10_000)

    async def events(run: str) -> AsyncIterator[bytes]:
        async with client.pubsub() as channel:
            await channel.subscribe(run)
            last = b"0-0"
            entries: Any = await client.xrange(f"log:{run}")
            for last, fields in entries:
                yield b"id: %b\ndata: %b\n\n" % (last, fields[b"d"])
            async for message in channel.listen():
                if message["type"] == "message":
                    seen, _, data = message["data"].partition(b" ")
                    yield b"id: %b\ndata: %b\n\n" % (seen, data)

    async def follow(request: Request) -> StreamingResponse:
        return StreamingResponse(events(request.path_params["run"]), media_type="text/event-stream")

    app = Starlette(routes=[Route("/{run}", follow)])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def measure(url: str, runs: int, seconds: float) -> float:
    """Events per CPU-second with two readers per run."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = f"from baselines.naive_gateway import serve; serve({url!r}, {port})"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen([sys.executable, "-c", program], env=env)
    try:
        return asyncio.run(_measure(psutil.Process(process.pid), url, port, runs, seconds))
    finally:
        process.terminate()
        process.wait()


async def _measure(process: psutil.Process, url: str, port: int, runs: int, seconds: float) -> float:
    delivered = [0]
    async with redis.Redis.from_url(url) as client:
        readers = [asyncio.create_task(_read(port, f"r{n % runs}", delivered)) for n in range(2 * runs)]
        async with asyncio.timeout(30):
            while len(await client.pubsub_channels()) < runs:
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        enough = asyncio.Event()
        publishing = asyncio.create_task(_publish(client, runs, enough))
        await asyncio.sleep(0.5)
        before, seen = sum(process.cpu_times()[:2]), delivered[0]
        await asyncio.sleep(seconds)
        used, got = sum(process.cpu_times()[:2]) - before, delivered[0] - seen
        enough.set()  # not cancelled: redis-py can swallow that
        await publishing
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    return got / used


async def _publish(client: redis.Redis, runs: int, enough: asyncio.Event) -> None:
    """Spread over time, as tokens are."""
    begun, n = time.monotonic(), 0
    while not enough.is_set():
        await client.publish(f"r{n % runs}", b"%d-0 " % n + PAYLOAD)
        n += 1
        await asyncio.sleep(begun + n / (runs * PER_S) - time.monotonic())


async def _read(port: int, run: str, delivered: list[int]) -> None:
    for _ in range(100):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except OSError:
            await asyncio.sleep(0.1)
    else:
        raise TimeoutError("the naive gateway does not answer")
    writer.write(f"GET /{run} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    try:
        while chunk := await reader.read(65536):
            delivered[0] += chunk.count(b"\nid: ")
    finally:
        writer.close()
