"""Lists what Anthropic's Messages send: thoughts and their signatures, calls, ends, and failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem_tasks.testing.dialects.table import HEAD, MESSAGES, OSLO, ROME, TOOLS, Dialect, plain
from mainstem_tasks.testing.histories import refusal, signature, strict
from mainstem_tasks.testing.provider_server import Request, Step

Event = Mapping[str, Any]
_NOW: Final = "retry-after: 0\r\n"
_THOUGHT: Final = "I need it."


def begin(**usage: int) -> Event:
    """Return the first event of a message."""
    counts = {"input_tokens": 3, "output_tokens": 1, **usage}
    return {"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": [], "usage": counts}}


def block(at: int, kind: str, *deltas: Event, **fields: Any) -> list[Event]:
    """Return the events of a block that grows by these deltas."""
    return [
        {"type": "content_block_start", "index": at, "content_block": {"type": kind, **fields}},
        *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": at},
    ]


def said(at: int, *pieces: str) -> list[Event]:
    """Return a block of text."""
    return block(at, "text", *({"type": "text_delta", "text": piece} for piece in pieces), text="")


def thought(at: int, text: str = _THOUGHT) -> list[Event]:
    """Return a block of thinking, with its signature."""
    deltas = ({"type": "thinking_delta", "thinking": piece} for piece in (text[:3], text[3:]))
    signed = {"type": "signature_delta", "signature": signature(text)}
    return block(at, "thinking", *deltas, signed, thinking="", signature="")


def call(at: int, name: str, *pieces: str, given: Any = None) -> list[Event]:
    """Return a call whose input comes in these pieces."""
    deltas = ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)
    return block(at, "tool_use", *deltas, id=f"toolu_{at}", name=name, input=given or {})


def end(reason: str, **usage: int) -> list[Event]:
    """Return the events that end a message."""
    counts = {"output_tokens": 2, **usage}
    return [
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": counts},
        {"type": "message_stop"},
    ]


def stream(*events: Event) -> tuple[bytes, ...]:
    """Return an answer of these events, and those that begin a message."""
    encoded = (f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in (begin(), *events))
    return (HEAD + b"".join(encoded),)


DONE: Final = stream(*said(0, "done"), *end("end_turn"))
_ROME: Final = call(0, "forecast", '{"ci', 'ty":"Rome"}')
_CALLED: Final = ("forecast", ROME)


def _dialect(name: str, quirk: str, *replies: Any, family: str = "Anthropic", **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"usage": (3, 2), **fields}
    return Dialect(name=f"messages-{name}", family=family, kind="messages", quirk=quirk, protocol=MESSAGES,
                   replies=tuple(map(strict, replies)), **expected)  # fmt: skip


def _calling(name: str, quirk: str, *events: Event, calls: Sequence[Any], **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"text": "done", "requests": 2, "wanted": TOOLS, "usage": (6, 4), **fields}
    return _dialect(name, quirk, stream(*events), DONE, calls=tuple(calls), **expected)


def _error(kind: str, words: str) -> Event:
    return {"type": "error", "error": {"type": kind, "message": words}}


def _unsigned(request: Request) -> Sequence[Step]:
    """Refuse the thoughts that came from here, as another key or another model does."""
    has_thoughts = any(b["type"] == "thinking" for m in request.body["messages"] for b in m["content"])
    words = "messages.1.content.0: Invalid `signature` in `thinking` block"
    return refusal(request.path, words) if has_thoughts else DONE


_CALLS: Final = (
    _calling("thought", "A thought comes back with its signature, before the calls that it led to", *thought(0), *call(1, "forecast", '{"city":"Rome"}'),
             *end("tool_use"), calls=[_CALLED], reasoning=_THOUGHT, wanted={**TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}}),
    _calling("redacted", "A thought that nobody may read comes back as it came", *block(0, "redacted_thinking", data=signature("x")),
             *call(1, "forecast", '{"city":"Rome"}'), *end("tool_use"), calls=[_CALLED], wanted={**TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}}),
    _calling("thoughts-between", "Thoughts between text and calls keep their places", *thought(0), *said(1, "So: "), *thought(2, "And?"),
             *call(3, "forecast", '{"city":"Rome"}'), *end("tool_use"), calls=[_CALLED], reasoning=f"{_THOUGHT}\n\nAnd?", text="So: done"),
    _calling("parallel", "Two calls in one answer", *_ROME, *call(1, "forecast", '{"city":"Oslo"}'), *end("tool_use"), calls=[_CALLED, ("forecast", OSLO)]),
    _calling("same-id", "Two calls with one id", *_ROME, *block(1, "tool_use", {"type": "input_json_delta", "partial_json": '{"city":"Oslo"}'}, id="toolu_0",
             name="forecast", input={}), *end("tool_use"), calls=[_CALLED, ("forecast", OSLO)]),
    _calling("no-input", "A call of a tool that needs none, without an input", *call(0, "purge"), *end("tool_use"), calls=[("purge", {})]),
    _calling("input-missing", "No input for a tool that needs some", *call(0, "forecast", ""), *end("tool_use"), calls=[("forecast", None)]),
    _calling("input-at-once", "The input comes with the call", *call(0, "forecast", given=ROME), *end("tool_use"), calls=[_CALLED]),
    _calling("input-broken", "An input that is no JSON", *call(0, "purge", '{"pattern": "a'), *end("tool_use"), calls=[("purge", None)]),
    _calling("cut-in-input", "The limit of tokens cuts the input", *call(0, "purge", '{"pattern": "a'), *end("max_tokens"), calls=[("purge", None)]),
    _calling("cut-after-input", "The limit cuts the answer after a whole input", *_ROME, *end("max_tokens"), calls=[("forecast", None)]),
    _calling("cut-by-context", "The context is full after a whole input", *_ROME, *end("model_context_window_exceeded"), calls=[("forecast", None)]),
    _calling("no-reason", "message_stop comes without a reason to stop", *_ROME, {"type": "message_stop"}, calls=[("forecast", None)], usage=(6, 3)),
    _calling("refused-call", "refusal after a whole call: nothing runs, and the run ends", *_ROME, *end("refusal"), calls=[("forecast", None)], text="", requests=1, usage=(3, 2)),
    _dialect("broken-in-call", "The connection closes in the middle of an input", stream(*call(0, "purge", '{"pattern":')[:-1]), calls=(("purge", None),), wanted=TOOLS,
             failure="broke off", usage=None),
    _dialect("broken-after-call", "The connection closes after a whole call", stream(*_ROME), calls=(("forecast", None),), wanted=TOOLS, failure="broke off", usage=None),
    _dialect("signature-refused", "Thoughts are refused that came from here: they stay away", stream(*thought(0), *call(1, "forecast", '{"city":"Rome"}'), *end("tool_use")),
             _unsigned, _unsigned, calls=(_CALLED,), wanted=TOOLS, reasoning=_THOUGHT, text="done", requests=3, usage=(6, 4)),
)  # fmt: skip

_TEXTS: Final = (
    _dialect("refusal", "The model refuses in the middle of an answer: the text stays, `finish` says so", stream(*said(0, "par"), *end("refusal")), text="par"),
    _dialect("cut", "The limit of tokens cuts a text: it stays, and `finish` says so", stream(*said(0, "par"), *end("max_tokens")), text="par"),
    _dialect("pause", "pause_turn amid a server's tool: the answer goes back, and the model goes on",
             stream(*said(0, "one, "), *block(1, "server_tool_use", {"type": "input_json_delta", "partial_json": '{"query":"x"}'}, id="srv_1", name="web_search", input={}),
                    *end("pause_turn")), stream(*said(0, "two"), *end("end_turn")), text="one, two", requests=2, usage=(6, 4)),
    _dialect("unknown", "Events, blocks and pings that nobody knows yet",
             stream({"type": "ping"}, {"type": "weather_report", "wind": 3}, *block(0, "hologram", {"type": "light_delta", "light": 1}), *said(1, "hello"), *end("end_turn")), text="hello"),
    _dialect("think-tag", "A leading <think> is text here: thoughts have blocks", stream(*said(0, "<think>", "x</think>"), *end("end_turn")), text="<think>x</think>"),
    _dialect("cache", "Counts leave out what was read from the cache, or written to it",
             (stream()[0].replace(b'"input_tokens": 3', b'"input_tokens": 3, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 7')
              + stream(*said(0, "hello"), *end("end_turn", input_tokens=3))[0].partition(b"\n\n")[2],), text="hello", usage=(100, 2)),
    _dialect("plain", "A plain JSON answer to a streaming request", plain({"type": "message", "id": "msg_1", "model": "m", "content": [{"type": "text", "text": "hello"}],
             "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2}}), text="hello", family="proxies"),
    _dialect("open", "The connection stays open after message_stop", (*stream(*said(0, "hello"), *end("end_turn")), "hold"), text="hello", family="proxies"),
)  # fmt: skip


def _failing(name: str, quirk: str, reply: Any, words: str, **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"usage": None, **fields}
    return _dialect(name, quirk, reply, failure=words, **expected)


_FAILURES: Final = (
    _failing("overloaded-event", "overloaded_error in the stream, before a word: asked four times", stream(_error("overloaded_error", "Overloaded")), "Overloaded (overloaded_error)", requests=4, usage=(3, 1)),
    _failing("overloaded-later", "overloaded_error after the first words: asked once", stream(*said(0, "par"), _error("overloaded_error", "Overloaded")), "Overloaded", text="par"),
    _failing("invalid-event", "invalid_request_error in the stream: asked once", stream(_error("invalid_request_error", "prompt is too long")), "prompt is too long", usage=(3, 1)),
    _failing("status-400", "400: refused, asked once", plain(_error("invalid_request_error", "no"), status="400 No"), "answered 400: no"),
    _failing("status-401", "401: refused, asked once", plain(_error("authentication_error", "invalid x-api-key"), status="401 No"), "answered 401: invalid x-api-key"),
    _failing("status-413", "413: too large, asked once", plain(_error("request_too_large", "too large"), status="413 No"), "answered 413: too large"),
    _failing("status-429", "429 with Retry-After: asked four times", plain(_error("rate_limit_error", "later"), status="429 No", headers=_NOW), "answered 429: later", requests=4),
    _failing("status-529", "529: overloaded, asked four times", plain(_error("overloaded_error", "Overloaded"), status="529 No", headers=_NOW), "answered 529: Overloaded", requests=4),
    _failing("empty", "An ordinary end, and nothing said", stream(*end("end_turn")), "empty", requests=4, usage=(3, 2)),
    _failing("begins-twice", "Two blocks in one place: what belongs to which nobody can tell", stream(*said(0, "par"), *said(0, "ty"), *end("end_turn")), "no message", text="par"),
)  # fmt: skip

DIALECTS: Final = (*_CALLS, *_TEXTS, *_FAILURES)
