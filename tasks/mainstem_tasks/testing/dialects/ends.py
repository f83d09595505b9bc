"""Lists dialects of ends: answers that are cut, reasons to stop, connections that outlive or break them."""

# Values of any shape are walked here.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from typing import Any, Final

from mainstem_tasks.testing.dialects.table import (
    HEAD,
    STOP,
    TOOLS,
    Dialect,
    calling,
    chunk,
    event,
    piece,
    stream,
)
from mainstem_tasks.testing.provider_server import HOLD, RESET

_HI: Final = chunk({"content": "hi"})
_ASKED: Final[dict[str, Any]] = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
_USAGE: Final = {"choices": [], "usage": _ASKED}
_WHOLE: Final = piece('{"city":"Rome"}', "forecast", index=0, id="x")
_FAILED: Final = (("forecast", None),)


def _cut(name: str, family: str, quirk: str, *chunks: Any, calls: Any = _FAILED, **fields: Any) -> Dialect:
    return calling(name, family, quirk, *chunks, calls=calls, kind="cut", **fields)


_CUT: Final = (
    _cut("length-before-arguments", "any", "The limit of tokens cuts the answer after a call's name",
         piece("", "purge", index=0, id="x"), chunk(finish="length"), calls=(("purge", None),)),
    _cut("length-in-arguments", "any", "The limit cuts the arguments",
         piece('{"pattern":"a', "purge", index=0, id="x"), chunk(finish="length"), calls=(("purge", None),)),
    _cut("length-after-arguments", "any", "The limit cuts the answer after whole arguments", _WHOLE,
         chunk(finish="length")),
    _cut("max-tokens", "Gemini, Claude behind proxies", "The limit is called MAX_TOKENS", _WHOLE,
         chunk(finish="MAX_TOKENS")),
    _cut("no-reason", "older servers", "[DONE] comes without a reason to stop", _WHOLE),
    _cut("filtered", "Azure", "content_filter after a whole call: the run ends, and its readers see both", _WHOLE,
         chunk(finish="content_filter"), text="", requests=1),
    _cut("filtered-safety", "Gemini", "The filter is called SAFETY", _WHOLE, chunk(finish="SAFETY"), text="", requests=1),
    Dialect(name="broken-in-a-call", family="any", kind="cut", quirk="The connection closes in the middle of a call",
            replies=(stream(piece('{"pattern":"a"', "purge", index=0, id="x"), done=False),), wanted=TOOLS,
            calls=(("purge", None),), failure="broke off"),
    Dialect(name="broken-after-a-call", family="any", kind="cut",
            quirk="The connection closes after a whole call, without a reason to stop",
            replies=(stream(_WHOLE, done=False),), wanted=TOOLS, calls=_FAILED, failure="broke off"),
    Dialect(name="text-cut", family="any", kind="cut", quirk="The limit of tokens cuts a text: it stays, and `finish` says so",
            replies=(stream(_HI, chunk(finish="length")),), text="hi"),
)  # fmt: skip


def _end(name: str, family: str, quirk: str, *steps: Any, **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"text": "hi", **fields}
    return Dialect(name=name, family=family, kind="end", quirk=quirk, replies=(steps,), **expected)


_OPEN: Final = stream(_HI, STOP, done=False)
_END: Final = (
    _end("open-after-finish", "proxies", "Neither [DONE] nor a close after the reason to stop", *_OPEN, HOLD),
    _end("open-after-done", "proxies", "[DONE], then the connection stays open", *stream(_HI, STOP), HOLD),
    _end("open-heartbeats", "proxies", "Heartbeats for ever after the reason to stop",
         *_OPEN, *[step for _ in range(30) for step in (b": ping\n\n", 0.05)], HOLD),
    _end("reset-after-finish", "any", "A reset after the reason to stop", *_OPEN, 0.05, RESET),
    _end("late-usage", "vLLM", "Counts come a moment after the reason to stop",
         *_OPEN, 0.05, event(_USAGE), HOLD, usage=(3, 2)),
    _end("done-without-reason", "older servers", "[DONE] without any reason to stop", *stream(_HI)),
    _end("no-done", "older servers", "The connection closes after the reason to stop, without [DONE]", *_OPEN),
    _end("reason-in-text-chunk", "Ollama", "The reason to stop stands in the last piece of text",
         *stream(chunk({"content": "h"}), chunk({"content": "i"}, "stop"))),
    _end("reason-is-empty", "Qwen (DashScope)", "An empty reason, or the text null, in every piece",
         *stream(chunk({"content": "h"}, ""), chunk({"content": "i"}, "null"), STOP)),
    _end("reason-before-text", "proxies", "Text follows the reason to stop",
         *stream(chunk({"content": "h"}, "stop"), chunk({"content": "i"}))),
    _end("reason-after-thoughts", "Open WebUI before Ollama", "A reason to stop in every thought; the text comes much later",
         *stream(chunk({"reasoning_content": "hm"}, "stop"), done=False), 0.6, event(chunk({"content": "hi"})), event(STOP),
         reasoning="hm"),
    _end("reset-in-text", "any", "A reset in the middle of the text", HEAD + event(_HI), 0.05, RESET,
         failure="connection to the provider failed"),
    _end("closed-in-text", "any", "A close in the middle of the text", *stream(_HI, done=False), failure="broke off"),
    _end("closed-in-chunk", "any", "A close in the middle of a chunk", HEAD + event(_HI) + b'data: {"choices":[{"del',
         failure="no chat completion"),
    _end("length-too-short", "proxies", "The body is shorter than its announced length",
         HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: 9999\r\n\r\n") + event(_HI),
         failure="connection to the provider failed"),
)  # fmt: skip


def _usage(
    name: str, family: str, quirk: str, *values: Any, counts: tuple[int, int] | None = (3, 2), **fields: Any
) -> Dialect:
    return Dialect(name=name, family=family, kind="usage", quirk=quirk, replies=(stream(_HI, *values, **fields),),
                   text="hi", usage=counts)  # fmt: skip


def _last(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", **choice}]}


_ODD: Final = {**_ASKED, "prompt_tokens_details": []}
_USAGES: Final = (
    _usage("usage-chunk", "OpenAI", "A last chunk with counts alone", STOP, _USAGE),
    _usage("usage-in-choice", "Moonshot", "Counts in the last choice", _last(usage=_ASKED)),
    _usage("usage-in-delta", "proxies", "Counts in the last delta", _last(delta={"usage": _ASKED})),
    _usage("usage-x-groq", "Groq", "Counts in x_groq", {**STOP, "x_groq": {"id": "r", "usage": _ASKED}}),
    _usage("usage-after-done", "proxies", "Counts after [DONE]", STOP, "[DONE]", _USAGE, done=False),
    _usage("usage-running", "vLLM (continuous_usage_stats)", "Counts so far in every chunk",
           {**_HI, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}, {**STOP, "usage": _ASKED}),
    _usage("usage-then-zero", "proxies", "Counts, then zeros", {**STOP, "usage": _ASKED},
           {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
    _usage("usage-details-list", "gateways in PHP", "Details are an empty list, in every chunk",
           {**STOP, "usage": _ODD}, {"choices": [], "usage": _ODD}),
    _usage("usage-as-text", "proxies", "Counts are encoded as text", {**STOP, "usage": {"prompt_tokens": "3", "completion_tokens": 2.0}}),
    _usage("usage-input-output", "Claude behind proxies", "Counts are called input_tokens and output_tokens",
           {**STOP, "usage": {"input_tokens": 3, "output_tokens": 2}}),
    _usage("usage-unreadable", "any", "Counts that are none", {**STOP, "usage": {"prompt_tokens": {}, "completion_tokens": None}},
           counts=None),
    _usage("usage-not-object", "any", "usage is a list", {**STOP, "usage": [1]}, counts=None),
)  # fmt: skip

DIALECTS: Final = (*_CUT, *_END, *_USAGES)
