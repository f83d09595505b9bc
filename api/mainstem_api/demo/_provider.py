"""A model provider on this machine streams a fixed answer in the OpenAI chat-completions protocol.

The protocol: https://platform.openai.com/docs/api-reference/chat-streaming (`data: {chunk}` lines, `[DONE]`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

MODEL: Final = "mainstem-demo"
ANSWER: Final = "A stream is a promise: every drop arrives once, in order, however often you look away."
PAUSE_S: Final = 0.02


async def _chunks(words: Sequence[str]) -> AsyncGenerator[str]:
    def chunk(**fields: Any) -> str:
        common = {"id": "demo", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
        return f"data: {json.dumps({**common, **fields})}\n\n"

    for k, word in enumerate(words):
        delta = {"content": word if k == 0 else f" {word}"}
        yield chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
        await asyncio.sleep(PAUSE_S)
    yield chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
    yield chunk(choices=[], usage=usage)
    yield "data: [DONE]\n\n"


async def _complete(_request: Request) -> StreamingResponse:
    return StreamingResponse(_chunks(ANSWER.split(" ")), media_type="text/event-stream")


@contextlib.asynccontextmanager
async def provider() -> AsyncGenerator[str]:
    """Serve while the block runs; yields the base URL."""
    app = Starlette(routes=[Route("/v1/chat/completions", _complete, methods=["POST"])])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign] # signals are the stack's
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            await serving
