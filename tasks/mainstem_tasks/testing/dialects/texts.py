"""Lists dialects of text: its shapes, the bytes and lines that carry it, and halves of characters."""

from __future__ import annotations

import gzip
import json
from typing import Any, Final

from mainstem_tasks.testing.dialects.table import (
    CALLED,
    DONE,
    HEAD,
    STOP,
    TOOLS,
    Dialect,
    chunk,
    event,
    plain,
    stream,
)

_PLAIN_HEAD: Final = HEAD.replace(b"text/event-stream", b"application/json")


def _shape(name: str, family: str, quirk: str, *values: Any, **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"text": "hello", **fields}
    return Dialect(
        name=name, family=family, kind="shapes", quirk=quirk, replies=(stream(*values),), **expected
    )


def _message(content: Any, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **fields}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


_CALL: Final = {
    "id": "x",
    "type": "function",
    "function": {"name": "forecast", "arguments": '{"city":"Rome"}'},
}
_SHAPES: Final = (
    _shape("content-parts", "Mistral (Magistral)", "Content is a list of parts, thinking and text",
           chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
           chunk({"content": [{"type": "text", "text": "hello"}]}), STOP, reasoning="hm"),
    _shape("content-part", "proxies", "Content is one part", chunk({"content": {"type": "text", "text": "hello"}}), STOP),
    _shape("content-number", "proxies", "A piece of content is a number", chunk({"content": "hello"}), chunk({"content": 5}), STOP,
           text="hello5"),
    _shape("think-tags", "Qwen, MiniMax, llama.cpp", "The answer begins with a <think> block",
           chunk({"content": "<thi"}), chunk({"content": "nk>\nhm</th"}), chunk({"content": "ink>\n\nhello"}), STOP, reasoning="hm"),
    _shape("think-tags-magistral", "Mistral (Magistral)", "The block is called [THINK]",
           chunk({"content": "[THINK]hm[/THINK]hello"}), STOP, reasoning="hm"),
    _shape("think-unclosed", "Qwen", "A <think> block that never ends", chunk({"content": "<think>hm"}), STOP, text="", reasoning="hm"),
    _shape("think-later", "any", "The same tag later in an answer is text", chunk({"content": "hello <think>"}), STOP, text="hello <think>"),
    _shape("reasoning-twice", "vLLM", "Reasoning under two names at once",
           chunk({"reasoning": "hm", "reasoning_content": "hm"}), chunk({"content": "hello"}), STOP, reasoning="hm"),
    _shape("message-for-delta", "servers that imitate streaming", "message in place of delta, in one chunk", _message("hello", "stop")),
    _shape("message-pieces", "servers that imitate streaming", "message in place of delta, in pieces",
           _message("he"), _message("llo", "stop")),
    _shape("message-growing", "Qwen (DashScope)", "message as it is so far, in every chunk", _message("he"), _message("hello", "stop")),
    _shape("message-at-the-end", "proxies", "Pieces, then the whole message", chunk({"content": "he"}), chunk({"content": "llo"}),
           _message("hello", "stop")),
    _shape("message-at-the-end-trimmed", "proxies", "Pieces, then the whole message without white space at its ends",
           chunk({"content": "hel"}), chunk({"content": "lo"}), chunk({"content": " "}), _message("hello", "stop"), text="hello "),
    _shape("message-with-reasoning", "DeepSeek proxies", "message with reasoning_content",
           _message("hello", "stop", reasoning_content="hm"), reasoning="hm"),
    _shape("text-for-delta", "servers of plain completions", "text in place of delta",
           {"choices": [{"index": 0, "text": "hel", "finish_reason": None}]}, {"choices": [{"text": "lo", "finish_reason": "stop"}]}),
    _shape("choice-one", "proxies", "The only choice is number 1", {"choices": [{"index": 1, "delta": {"content": "hello"}, "finish_reason": "stop"}]}),
    _shape("choice-object", "proxies", "choices is one choice", {"choices": {"delta": {"content": "hello"}, "finish_reason": "stop"}}),
    _shape("empty-choices", "Azure", "Chunks without a choice: results of filters",
           {"choices": [], "prompt_filter_results": [{}]}, chunk({"content": "hello"}), STOP),
    _shape("filter-chunks", "Azure", "A choice without a delta, at the end: offsets of filters", chunk({"content": "hello"}),
           {"id": "", "object": "", "created": 0, "model": "", "choices": [{"finish_reason": None, "index": 0, "content_filter_offsets": {}}]}, STOP),
    _shape("null-members", "llama.cpp, Xinference", "Members that say nothing are null",
           {"id": None, "choices": None}, chunk({"role": None, "content": None, "tool_calls": None}), chunk({"content": "hello"}), STOP),
    _shape("numeric-id", "proxies", "id is a number, model an object", {**chunk({"content": "hello"}), "id": 7, "model": {"name": "m"}}, STOP),
    _shape("in-a-list", "Gemini", "Chunks are wrapped in lists", [chunk({"content": "hello"}), STOP]),
    Dialect(name="plain-answer", family="servers that cannot stream", kind="shapes", quirk="A plain JSON answer to a streaming request",
            replies=(plain({"object": "chat.completion", **_message("hello", "stop"), "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),),
            text="hello", usage=(3, 2)),
    Dialect(name="plain-answer-indented", family="servers that cannot stream", kind="shapes", quirk="The same, over several lines",
            replies=(plain(json.dumps(_message("hello", "stop"), indent=2)),), text="hello"),
    Dialect(name="message-with-calls", family="servers that imitate streaming", kind="shapes", quirk="Calls in a message in place of delta",
            replies=(stream(_message(None, "tool_calls", tool_calls=[_CALL])), DONE), wanted=TOOLS,
            calls=(("forecast", {"city": "Rome"}),), text="done", requests=2),
)  # fmt: skip


def _wire(name: str, family: str, quirk: str, *steps: Any, **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"text": "hello", **fields}
    return Dialect(name=name, family=family, kind="wire", quirk=quirk, replies=(steps,), **expected)


_HELLO: Final = json.dumps(chunk({"content": "hello"})).encode()
_STOP: Final = json.dumps(STOP).encode()
_WIDE: Final = json.dumps(chunk({"content": "héllo 🎉"}), ensure_ascii=False).encode()
_CUT_AT: Final = _WIDE.index(b"\xf0") + 2
_WIRES: Final = (
    _wire("crlf", "IIS, Spring", "Lines end with CRLF", HEAD + b"data: " + _HELLO + b"\r\n\r\ndata: " + _STOP + b"\r\n\r\n"),
    _wire("cr", "the specification", "Lines end with CR", HEAD + b"data: " + _HELLO + b"\r\rdata: " + _STOP + b"\r\r"),
    _wire("crlf-split", "IIS, Spring", "A CRLF is cut in two", HEAD + b"data: " + _HELLO + b"\r", 0.02, b"\n\r", 0.02,
          b"\ndata: " + _STOP + b"\r\n\r\n"),
    _wire("no-space", "Ollama proxies", "data: without a space, [DONE] too", HEAD + b"data:" + _HELLO + b"\n\ndata:" + _STOP + b"\n\ndata:[DONE]\n\n"),
    _wire("comments", "OpenRouter", "Comments while the model thinks", HEAD + b": PROCESSING\n\n:\n\ndata: " + _HELLO + b"\n\n: x\ndata: " + _STOP + b"\n\n"),
    _wire("event-names", "Cohere, proxies", "event, id and retry stand beside data",
          HEAD + b"retry: 3000\nid: 1\nevent: message\ndata: " + _HELLO + b"\n\nid: 2\nevent: message\ndata: " + _STOP + b"\n\n"),
    _wire("no-blank-lines", "proxies", "No blank line between events", HEAD + b"data: " + _HELLO + b"\ndata: " + _STOP + b"\ndata: [DONE]\n"),
    _wire("no-last-line-end", "proxies", "The last event has no line end", HEAD + b"data: " + _HELLO + b"\n\ndata: " + _STOP),
    _wire("json-lines", "proxies", "Chunks a line, without data:", _PLAIN_HEAD + _HELLO + b"\n" + _STOP + b"\n"),
    _wire("pretty-data", "proxies", "A chunk over several data lines",
          HEAD + b"".join(b"data: " + line + b"\n" for line in json.dumps(chunk({"content": "hello"}), indent=1).encode().split(b"\n")) + b"\ndata: " + _STOP + b"\n\n"),
    _wire("byte-order-mark", "proxies", "The body begins with a byte order mark", HEAD + b"\xef\xbb\xbfdata: " + _HELLO + b"\n\ndata: " + _STOP + b"\n\n"),
    _wire("heartbeat-words", "proxies", "Words that are no chunk, among chunks", HEAD + b"data: ping\n\ndata: " + _HELLO + b"\n\ndata: \n\ndata: " + _STOP + b"\n\n"),
    _wire("split-character", "any", "A character's bytes arrive in two pieces", HEAD + b"data: " + _WIDE[:_CUT_AT], 0.02, _WIDE[_CUT_AT:] + b"\n\ndata: " + _STOP + b"\n\n",
          text="héllo 🎉"),
    _wire("raw-separators", "any", "U+2028 and U+0085 stand unescaped in a text",
          HEAD + event(chunk({"content": "he"})) + b"data: " + json.dumps(chunk({"content": "\u2028\u0085"}), ensure_ascii=False).encode() + b"\n\ndata: " + _STOP + b"\n\n",
          text="he\u2028\u0085"),
    _wire("gzip", "CDNs", "The stream is compressed",
          HEAD.replace(b"connection: close", b"content-encoding: gzip\r\nconnection: close") + gzip.compress(b"data: " + _HELLO + b"\n\ndata: " + _STOP + b"\n\n")),
    _wire("chunked", "any", "HTTP chunks cut lines and characters anywhere",
          HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
          + b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in b"data: " + _WIDE + b"\n\ndata: " + _STOP + b"\n\ndata: [DONE]\n\n") + b"0\r\n\r\n",
          text="héllo 🎉"),
)  # fmt: skip


def _raw(arguments: str) -> bytes:
    """Return a piece of a call whose arguments hold escapes as they are."""
    call = '{"index":0,"id":"x","function":{"name":"forecast","arguments":"' + arguments + '"}}'
    return f'data: {{"choices":[{{"index":0,"delta":{{"tool_calls":[{call}]}}}}]}}\n\n'.encode()


def _said(text: str) -> bytes:
    return f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}\n\n'.encode()


def _half(name: str, quirk: str, *events: bytes, finish: Any = STOP, **fields: Any) -> Dialect:
    replies = (HEAD + b"".join(events) + event(finish) + event("[DONE]"),)
    more = (replies, DONE) if finish is CALLED else (replies,)
    return Dialect(
        name=name, family="tokenizers that cut in UTF-16", kind="unicode", quirk=quirk, replies=more, **fields
    )


_CALLING: Final[dict[str, Any]] = {"finish": CALLED, "wanted": TOOLS, "requests": 2, "text": "done"}
_HALVES: Final = (
    _half("halves-in-text", "The escapes of an emoji arrive in two pieces of text", _said("a\\ud83d"), _said("\\ude00b"), text="a😀b"),
    _half("half-in-text", "Half an emoji, and never the rest", _said("a\\ud83d"), _said("b"), text="a\ufffdb"),
    _half("half-at-the-end", "Half an emoji at the end", _said("a\\ud83d"), text="a\ufffd"),
    _half("halves-in-arguments", "The escapes of an emoji arrive in two pieces of arguments",
          _raw('{\\"city\\":\\"\\ud83d'), _raw('\\ude00\\"}'), calls=(("forecast", {"city": "😀"}),), **_CALLING),
    _half("half-in-arguments", "Half an emoji in arguments", _raw('{\\"city\\":\\"\\ud83d'), _raw('\\"}'),
          calls=(("forecast", {"city": "\ufffd"}),), **_CALLING),
    _half("escaped-half-in-arguments", "Half an emoji, escaped once more in arguments", _raw('{\\"city\\":\\"\\\\ud83d'), _raw('\\"}'),
          calls=(("forecast", {"city": "\ufffd"}),), **_CALLING),
)  # fmt: skip

DIALECTS: Final = (*_SHAPES, *_WIRES, *_HALVES)
