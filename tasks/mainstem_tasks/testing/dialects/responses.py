"""Lists what OpenAI's Responses send: items in pieces and whole, reasoning to give back, ends, and failures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem_tasks.testing.dialects.table import HEAD, OSLO, RESPONSES, ROME, TOOLS, Dialect, plain
from mainstem_tasks.testing.histories import refusal, signature, strict
from mainstem_tasks.testing.provider_server import Request, Step

Event = Mapping[str, Any]
_NOW: Final = "retry-after: 0\r\n"
_USAGE: Final = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


def event(kind: str, **members: Any) -> Event:
    """Return one event."""
    return {"type": f"response.{kind}", **members}


def item(at: int, kind: str, *pieces: Event, **fields: Any) -> list[Event]:
    """Return the events of an item that grows by these pieces."""
    whole = {"type": kind, "id": f"{kind[:2]}_{at}", **fields}
    begun = {
        **whole,
        **{
            name: type(value)()
            for name, value in fields.items()
            if name in ("content", "summary", "arguments")
        },
    }
    return [
        event("output_item.added", output_index=at, item=begun),
        *({**piece, "output_index": at} for piece in pieces),
        event("output_item.done", output_index=at, item=whole),
    ]


def said(at: int, *pieces: str) -> list[Event]:
    """Return a message."""
    content: list[Event] = [{"type": "output_text", "text": "".join(pieces), "annotations": []}]
    deltas = (event("output_text.delta", content_index=0, delta=piece) for piece in pieces)
    return item(at, "message", *deltas, role="assistant", content=content)


def thought(at: int, *parts: str) -> list[Event]:
    """Return an item of reasoning, with its encrypted content."""
    summary = [{"type": "summary_text", "text": part} for part in parts]
    deltas = (
        event("reasoning_summary_text.delta", summary_index=n, delta=part) for n, part in enumerate(parts)
    )
    return item(at, "reasoning", *deltas, summary=summary, encrypted_content=signature(f"re_{at}"))


def call(at: int, name: str, *pieces: str) -> list[Event]:
    """Return a call whose arguments come in these pieces."""
    deltas = (event("function_call_arguments.delta", delta=piece) for piece in pieces)
    whole = event("function_call_arguments.done", arguments="".join(pieces))
    return item(
        at, "function_call", *deltas, whole, call_id=f"call_{at}", name=name, arguments="".join(pieces)
    )


def end(status: str = "completed", **members: Any) -> Event:
    """Return the event that ends a response."""
    response: dict[str, Any] = {
        "id": "resp_1",
        "model": "m",
        "status": status,
        "output": [],
        "usage": _USAGE,
        **members,
    }
    return event(status, response=response)


def stream(*events: Event | str) -> tuple[bytes, ...]:
    """Return an answer of these events, and the one that begins it."""
    first = event("created", response={"id": "resp_1", "model": "m", "status": "in_progress"})
    return (HEAD + b"".join(map(_encoded, (first, *events))),)


def _encoded(one: Event | str) -> bytes:
    if isinstance(one, str):
        return f"data: {one}\n\n".encode()
    return f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode()


DONE: Final = stream(*said(0, "done"), end())
_ROME: Final = call(0, "forecast", '{"ci', 'ty":"Rome"}')
_CALLED: Final = ("forecast", ROME)
_CUT: Final = {"incomplete_details": {"reason": "max_output_tokens"}}
_FILTERED: Final = {"incomplete_details": {"reason": "content_filter"}}


def _dialect(name: str, quirk: str, *replies: Any, family: str = "OpenAI", **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"usage": (3, 2), **fields}
    return Dialect(name=f"responses-{name}", family=family, kind="responses", quirk=quirk, protocol=RESPONSES,
                   replies=tuple(map(strict, replies)), **expected)  # fmt: skip


def _calling(name: str, quirk: str, *events: Event | str, calls: Sequence[Any], **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"text": "done", "requests": 2, "wanted": TOOLS, "usage": (6, 4), **fields}
    return _dialect(name, quirk, stream(*events), DONE, calls=tuple(calls), **expected)


def _plainly(request: Request) -> Sequence[Step]:
    """Refuse to be asked for encrypted content, as models that do not reason do."""
    if "reasoning.encrypted_content" in request.body.get("include", ()):
        return refusal(request.path, "Encrypted content is not supported with this model.")
    return DONE


def _forgetful(request: Request) -> Sequence[Step]:
    """Refuse the reasoning that came from here, as another organisation's key does."""
    if any(one.get("type") == "reasoning" for one in request.body["input"]):
        return refusal(request.path, "The encrypted content for item re_0 could not be verified.")
    return DONE


_CALLS: Final = (
    _calling("reasoning", "Reasoning comes back encrypted, before the calls that it led to", *thought(0, "I need it."), *call(1, "forecast", '{"city":"Rome"}'), end(),
             calls=[_CALLED], reasoning="I need it."),
    _calling("parallel", "Pieces of parallel calls alternate", *(one for pair in zip(_ROME, call(1, "forecast", '{"city":', '"Oslo"}'), strict=True) for one in pair), end(),
             calls=[_CALLED, ("forecast", OSLO)]),
    _calling("whole-items", "Calls come whole, without pieces", _ROME[-1], end(), calls=[_CALLED]),
    _calling("only-at-the-end", "All items come with the end", end(output=[_ROME[-1]["item"]]), calls=[_CALLED]),
    _calling("arguments-at-once", "Arguments come whole, without pieces", _ROME[0], *_ROME[-2:], end(), calls=[_CALLED]),
    _calling("no-arguments", "A call of a tool that needs none, without arguments", *call(0, "purge"), end(), calls=[("purge", {})]),
    _calling("arguments-broken", "Arguments that are no JSON", *call(0, "purge", '{"pattern": "a'), end(), calls=[("purge", None)]),
    _calling("cut-in-arguments", "The limit of tokens cuts the arguments", *call(0, "purge", '{"pattern": "a')[:-2], end("incomplete", **_CUT), calls=[("purge", None)]),
    _calling("cut-after-call", "The limit cuts the answer after a whole call", *_ROME, end("incomplete", **_CUT), calls=[("forecast", None)]),
    _calling("filtered", "content_filter after a whole call: nothing runs, and the run ends", *_ROME, end("incomplete", **_FILTERED), calls=[("forecast", None)], text="", requests=1, usage=(3, 2)),
    _calling("done-alone", "[DONE] comes without an end", *_ROME, "[DONE]", calls=[("forecast", None)], usage=(3, 2)),
    _dialect("broken-after-call", "The connection closes after a whole call", stream(*_ROME), calls=(("forecast", None),), wanted=TOOLS, failure="broke off", usage=None),
    _dialect("other-arguments", "The whole arguments are not what the pieces were", stream(*_ROME[:-2], event("function_call_arguments.done", output_index=0, arguments="{}"), end()),
             calls=(("forecast", None),), wanted=TOOLS, failure="no response", usage=None),
    _dialect("no-encryption", "A model that does not reason refuses to be asked for encrypted content: it is not any more", _plainly, _plainly, text="done", requests=2),
    _dialect("reasoning-refused", "Reasoning is refused that came from here: it stays away", stream(*thought(0, "Hm."), *call(1, "forecast", '{"city":"Rome"}'), end()),
             _forgetful, _forgetful, calls=(_CALLED,), wanted=TOOLS, reasoning="Hm.", text="done", requests=3, usage=(6, 4)),
)  # fmt: skip

_TEXTS: Final = (
    _dialect("text", "A text in pieces, and once more as a whole", stream(*said(0, "hel", "lo"), end()), text="hello"),
    _dialect("summaries", "A summary of several parts", stream(*thought(0, "One.", "Two."), *said(1, "hello"), end()), text="hello", reasoning="One.\n\nTwo."),
    _dialect("unknown", "Events and items that nobody knows yet", stream(event("hologram.delta", light=1), *item(0, "hologram", light=1), *said(1, "hello"), end()), text="hello"),
    _dialect("cut", "The limit of tokens cuts a text: it stays, and `finish` says so", stream(*said(0, "par"), end("incomplete", **_CUT)), text="par"),
    _dialect("plain", "A plain JSON answer to a streaming request", plain({"object": "response", "id": "resp_1", "model": "m", "status": "completed",
             "output": [said(0, "hello")[-1]["item"]], "usage": _USAGE}), text="hello", family="proxies"),
)  # fmt: skip


def _failing(name: str, quirk: str, reply: Any, words: str, **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"usage": None, **fields}
    return _dialect(name, quirk, reply, failure=words, **expected)


def _failed(code: str, words: str) -> Event:
    return end("failed", error={"code": code, "message": words}, usage=None)


def _error(words: str, **members: Any) -> Mapping[str, Any]:
    return {"error": {"message": words, **members}}


_FAILURES: Final = (
    _failing("failed", "The response failed, before a word: asked four times", stream(_failed("server_error", "overloaded")), "overloaded (server_error)", requests=4),
    _failing("failed-later", "The response failed after the first words: asked once", stream(*said(0, "par"), _failed("server_error", "overloaded")), "overloaded", text="par"),
    _failing("failed-for-good", "The response failed for a reason that stays: asked once", stream(_failed("invalid_prompt", "no")), "no (invalid_prompt)"),
    _failing("error-event", "An error event that may pass", stream({"type": "error", "code": "rate_limit_exceeded", "message": "later", "param": None}), "later", requests=4),
    _failing("error-event-lasting", "An error event that stays", stream({"type": "error", "code": "context_length_exceeded", "message": "too long"}), "too long"),
    _failing("status-400", "400: refused, asked once", plain(_error("no"), status="400 No"), "answered 400: no"),
    _failing("status-429", "429 with Retry-After: asked four times", plain(_error("later"), status="429 No", headers=_NOW), "answered 429: later", requests=4),
    _failing("empty", "An ordinary end, and nothing said", stream(end()), "empty", requests=4, usage=(3, 2)),
)  # fmt: skip

DIALECTS: Final = (*_CALLS, *_TEXTS, *_FAILURES)
