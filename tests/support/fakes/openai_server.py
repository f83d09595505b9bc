"""A chat-completions endpoint that answers exactly what a test scripts: OpenAI's wire format, a real socket.

Queue one reply per expected request; what the client sent is in `requests`. The wire format is that of
chat completions with `stream: true`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from support.fakes.served_apps import ServedApp

DONE = "[DONE]"


@dataclass(frozen=True, kw_only=True)
class Events:
    """A stream of chunks (dicts; strings go out as they are), then its end.

    `end`: "clean" with [DONE]; "bare" without it; "cut" resets the connection; "silent" sends nothing more
    until the client goes away.
    """

    chunks: Sequence[dict[str, Any] | str]
    end: str = "clean"
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the client went away from a silent stream."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer that is no stream."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the client sent."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def chunk(delta: dict[str, Any] | None = None, *, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One `chat.completion.chunk` with one choice."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "scripted-1",
        "choices": [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}],
        **fields,
    }


def text_chunks(*pieces: str) -> list[dict[str, Any]]:
    return [chunk({"role": "assistant", "content": ""}), *(chunk({"content": piece}) for piece in pieces)]


def call_chunk(
    index: int, arguments: str, *, call_id: str | None = None, name: str | None = None
) -> dict[str, Any]:
    """A piece of a tool call; id and name stand in the first piece only."""
    call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if call_id is not None:
        call |= {"id": call_id, "type": "function"}
    if name is not None:
        call["function"]["name"] = name
    return chunk({"tool_calls": [call]})


def usage_chunk(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """The last chunk of a stream that was asked for usage: it has no choices."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }
    return {**chunk(), "choices": [], "usage": usage}


def answer(*pieces: str) -> Events:
    """A plain, complete answer."""
    return Events(chunks=[*text_chunks(*pieces), chunk(finish="stop"), usage_chunk(3, len(pieces))])


class OpenAIServer(ServedApp):
    """Use it as a context manager. An unexpected request is answered with status 418."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: deque[Events | Refusal] = deque()
        self.requests: list[Request] = []

    def reply(self, *replies: Events | Refusal) -> None:
        """Queue answers to the next requests."""
        self.replies.extend(replies)

    def clear(self) -> None:
        """Forget replies that were not fetched, and all requests."""
        self.replies.clear()
        self.requests.clear()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = await self._body(receive)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        self.requests.append(Request(path=scope["path"], headers=headers, body=body))
        reply = self.replies.popleft() if self.replies else Refusal(status=418, body={"error": "unexpected"})
        if isinstance(reply, Refusal):
            await _refuse(reply, send)
        else:
            await self._stream(reply, receive, send)

    async def _stream(self, reply: Events, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for item in reply.chunks:
            await _event(item, send)
        if reply.end == "silent":
            while (await receive())["type"] != "http.disconnect":
                pass
            reply.left.set()
        elif reply.end == "cut":
            await asyncio.sleep(0)  # returning without the last body chunk makes uvicorn drop the connection
        else:
            if reply.end == "clean":
                await _event(DONE, send)
            await send({"type": "http.response.body", "body": b""})


async def _event(item: dict[str, Any] | str, send: Any) -> None:
    data = item if isinstance(item, str) else json.dumps(item)
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def _refuse(reply: Refusal, send: Any) -> None:
    is_text = isinstance(reply.body, str)
    data = reply.body.encode() if is_text else json.dumps(reply.body).encode()
    kind = b"text/html" if is_text else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(data))]
    headers += [(name.encode(), value.encode()) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
