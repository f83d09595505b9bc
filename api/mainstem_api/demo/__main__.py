"""`make demo` runs a checked story: stream, kill the reader, reconnect elsewhere, verify.

It runs the stack in this process's foreground, on free ports and in a directory of its own; a second gateway
and a follower are processes too, because the follower gets killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from mainstem_api.cli._following import Event, Follower
from mainstem_api.cli._gateway import Gateway
from mainstem_api.demo import _provider
from mainstem_api.stack import Stack, program
from mainstem_api.stack._output import Output
from mainstem_shared.model import cursors
from mainstem_shared.model.events import Type
from mainstem_shared.settings import Settings

TOKENS: Final = 60
INTERVAL_MS: Final = 40
KILL_AFTER: Final = 20
"""Words after which the follower is killed."""
START_S: Final = 60.0
STEP_S: Final = 30.0

console = Console(highlight=False)


class DemoFailedError(AssertionError):
    """Something did not come out as promised."""


def check(condition: object, what: str) -> None:
    """Print a step's result; a broken promise ends the demo."""
    if not condition:
        raise DemoFailedError(what)
    console.print(f"  [green]✓[/green] {what}")


async def story(directory: Path, stack_done: asyncio.Task[None]) -> None:
    """Tell it from beginning to end."""
    begun = time.monotonic()
    state = await _state(directory, stack_done)
    first = state["gateway"]
    console.print(f"[bold]1. The stack[/bold]  gateway {first}  Flower {state['flower']}")
    check(state, f"Valkey, two workers, gateway and Flower are up after {time.monotonic() - begun:.1f} s")
    async with _second_gateway(directory) as second:
        check(second, f"a second gateway listens on {second}")
        await _reconnect(first, second)
    await _provider_run(first)


async def _reconnect(first: str, second: str) -> None:
    console.print("[bold]2. Stream, kill the reader, reconnect elsewhere[/bold]")
    body = {"engine": "demo", "input": {"tokens": TOKENS, "interval_ms": INTERVAL_MS}}
    with Gateway(first) as gateway:
        run_id = (await asyncio.to_thread(gateway.start, "demo", body, idempotency_key="demo-1"))["run_id"]
    console.print(f"  run {run_id}")
    seen = await _killed_follower(first, run_id)
    check(_words(seen), f"a follower process got {_words(seen)} words, then was killed with SIGKILL")
    with Gateway(second) as gateway:
        follower = Follower(gateway, run_id, after=str(seen[-1].cursor))
        rest = await asyncio.wait_for(asyncio.to_thread(list, follower), STEP_S)
        run = await asyncio.to_thread(gateway.run, run_id)
    check(
        rest[0].follows(seen[-1].cursor), f"the second gateway went on right after cursor {seen[-1].cursor}"
    )
    ids = [event.cursor for event in (*seen, *rest)]
    check(len(set(ids)) == len(ids), f"{len(ids)} events, none of them twice")
    text = "".join(e.data["text"] for e in (*seen, *rest) if e.type == Type.MESSAGE_DELTA)
    check(text == " ".join(f"w{k}" for k in range(TOKENS)), f"the text is exactly w0 … w{TOKENS - 1}")
    check(run["status"] == "succeeded" and run["text"] == text, "the run succeeded with the same text")


async def _killed_follower(url: str, run_id: str) -> list[Event]:
    """Follow in a process of its own and kill that in mid-stream; returns what it saw."""
    watch = (*program(), "watch", run_id, "--url", url, "--json")
    process = await asyncio.create_subprocess_exec(*watch, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    seen: list[Event] = []
    try:
        async with asyncio.timeout(STEP_S):
            while _words(seen) < KILL_AFTER:
                line = await process.stdout.readline()
                if not line:
                    break
                seen.append(_event(json.loads(line)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return seen


def _event(line: dict[str, Any]) -> Event:
    return Event(cursor=cursors.parse(line["cursor"]), type=line["type"], data=line["data"])


def _words(events: list[Event]) -> int:
    return sum(e.data["text"].count("w") for e in events if e.type == Type.MESSAGE_DELTA)


async def _provider_run(url: str) -> None:
    console.print("[bold]3. A run of the openai engine, against a local OpenAI-compatible server[/bold]")
    body = {"engine": "openai", "input": {"messages": [{"role": "user", "content": "What is a stream?"}]}}
    with Gateway(url) as gateway:
        run_id = (await asyncio.to_thread(gateway.start, "talk", body, idempotency_key="demo-2"))["run_id"]
        events = await asyncio.wait_for(asyncio.to_thread(list, Follower(gateway, run_id)), STEP_S)
        run = await asyncio.to_thread(gateway.run, run_id)
    deltas = sum(event.type == Type.MESSAGE_DELTA for event in events)
    check(run["status"] == "succeeded", f"run {run_id} succeeded")
    check(run["text"] == _provider.ANSWER, f"the answer came in {deltas} deltas: “{run['text']}”")
    usage = run["usage"]
    check(
        usage and usage["total_tokens"],
        f"its usage: {usage['input_tokens']} tokens in, {usage['output_tokens']} out",
    )


@contextlib.asynccontextmanager
async def _second_gateway(directory: Path) -> AsyncGenerator[str]:
    port = await asyncio.to_thread(_free_port)
    process = await asyncio.create_subprocess_exec(
        *program(),
        *("gateway", "--port", str(port)),
        env={**os.environ, "MAINSTEM_DATA_DIR": str(directory)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(STEP_S):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"{url}/readyz")).is_success:
                        break
                await asyncio.sleep(0.1)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 15)
        if process.returncode is None:
            process.kill()
            await process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def _state(directory: Path, stack_done: asyncio.Task[None]) -> dict[str, str]:
    """Wait until the stack says where it is."""
    async with asyncio.timeout(START_S):
        while not stack_done.done():
            with contextlib.suppress(OSError, ValueError):
                return json.loads((directory / "stack.json").read_text())
            await asyncio.sleep(0.1)
    raise DemoFailedError("the stack ended before it was ready")


async def main() -> int:
    """Run stack and story; returns the exit code."""
    directory = Path(tempfile.mkdtemp(prefix="mainstem-demo-"))
    log_path = directory / "stack.log"
    code = 1
    try:
        async with _provider.provider() as provider_url:
            os.environ |= {
                "MAINSTEM_OPENAI_BASE_URL": provider_url,
                "MAINSTEM_OPENAI_API_KEY": "none-needed",
                "MAINSTEM_OPENAI_MODEL": _provider.MODEL,
            }
            settings = Settings(data_dir=directory, port=0, flower_port=0, redis_url=None, broker_url=None)
            with log_path.open("w") as log:
                code = await _run(Stack(settings, output=Output(log)), directory)
        if code == 1:
            sys.stderr.write(log_path.read_text()[-4000:])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return code


async def _run(stack: Stack, directory: Path) -> int:
    running = asyncio.create_task(stack.run())
    telling = asyncio.create_task(story(directory, running))
    await asyncio.wait({running, telling}, return_when=asyncio.FIRST_COMPLETED)
    interrupted = stack.is_stopping  # a signal, which the story's own processes got as well
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    if not running.done():
        os.kill(os.getpid(), signal.SIGTERM)  # the stack's own way to stop
    await running
    if interrupted:
        console.print("[yellow]Interrupted; everything is stopped.[/yellow]")
        return 130
    failure = None if telling.cancelled() else telling.exception()
    if failure is not None:
        console.print(f"  [red]✗[/red] {type(failure).__name__}: {failure}")
        return 1
    console.print("[bold green]All of it held.[/bold green] Nothing is left running.")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
