"""Defines a dialect, and builds the chunks that dialects are written in.

Two tools are offered to the model where a dialect says so: `forecast(city: str)`, and `purge(pattern: str = "*")`,
which must never run on its default unless the model wanted that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_tasks.testing.provider_server import Reply

CHAT: Final = "chat completions"
RESPONSES: Final = "Responses"
MESSAGES: Final = "Anthropic's Messages"
KINDS: Final[Mapping[str, str]] = {
    "calls": "Telling calls apart",
    "cut": "Answers that are cut",
    "returned": "What goes back to the provider",
    "end": "Where an answer ends",
    "limits": "Values beyond limits",
    "unicode": "Halves of surrogate pairs",
    "shapes": "Odd shapes",
    "failures": "Failures, and how they are told",
    "loop": "Ends of the tool loop",
    "usage": "Where counts of tokens are",
    "wire": "Bytes and lines",
    "responses": "OpenAI's Responses",
    "messages": "Anthropic's Messages",
}
"""Kinds of quirks, in the order of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A quirk of a provider, and what is right to make of it.

    Attributes:
        name: unique; a slug.
        family: who does this.
        kind: one of `KINDS`.
        quirk: what is sent, in a sentence.
        replies: the answers to the run's requests, byte for byte.
        wanted: members of the run's input, beside a message: `use_tools`, or the caller's own `tools`.
        text: the run's text.
        reasoning: the run's reasoning.
        calls: its tool calls with their arguments; None: the call failed, and no tool ran.
        usage: input and output tokens; None: not told.
        failure: words of the run's error; empty: it succeeds.
        requests: completions that are asked for.
    """

    name: str
    family: str
    kind: str
    quirk: str
    replies: tuple[Reply, ...]
    protocol: str = CHAT
    wanted: Mapping[str, Any] = field(default_factory=dict[str, Any])
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
    usage: tuple[int, int] | None = None
    failure: str = ""
    requests: int = 1


HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return one `chat.completion.chunk` with one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields}


def piece(arguments: Any = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk with a piece of a tool call that has exactly these members."""
    given = {"name": name, "arguments": arguments}
    function = {key: value for key, value in given.items() if value is not None}
    return chunk({"tool_calls": [{**fields, "function": function}]})


def event(value: Any) -> bytes:
    """Return a value as one server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def stream(*values: Any, done: bool = True) -> tuple[bytes, ...]:
    """Return an answer that streams these chunks."""
    return (HEAD + b"".join(map(event, values)) + (event("[DONE]") if done else b""),)


def plain(
    body: Any, *, status: str = "200 OK", kind: str = "application/json", headers: str = ""
) -> tuple[bytes, ...]:
    """Return an answer that is no stream."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{headers}connection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    return (head.encode() + data,)


STOP: Final = chunk(finish="stop")
CALLED: Final = chunk(finish="tool_calls")
DONE: Final = stream(chunk({"content": "done"}), STOP)
"""What the model answers once it has the results of its calls."""
TOOLS: Final[Mapping[str, Any]] = {"use_tools": ["forecast", "purge"]}
ROME: Final = {"city": "Rome"}
OSLO: Final = {"city": "Oslo"}


def calling(
    name: str,
    family: str,
    quirk: str,
    *chunks: Any,
    calls: tuple[Any, ...],
    kind: str = "calls",
    **fields: Any,
) -> Dialect:
    """Return a dialect of calls that run here; the model then says `done`."""
    expected: dict[str, Any] = {"text": "done", "requests": 2, "wanted": TOOLS, **fields}
    replies = (stream(*chunks), DONE)
    return Dialect(name=name, family=family, kind=kind, quirk=quirk, replies=replies, calls=calls, **expected)
