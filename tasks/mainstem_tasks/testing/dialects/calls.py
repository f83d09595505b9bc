"""Lists dialects of tool calls: how providers number, identify, name and cut them, and what goes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from mainstem_tasks.testing.dialects.table import (
    CALLED,
    DONE,
    OSLO,
    ROME,
    STOP,
    TOOLS,
    Dialect,
    calling,
    chunk,
    piece,
    plain,
    stream,
)
from mainstem_tasks.testing.provider_server import Request, Step

_ROME: Final = '{"city":"Rome"}'
_OSLO: Final = '{"city":"Oslo"}'
_BOTH: Final = (("forecast", ROME), ("forecast", OSLO))
_ONE: Final = (("forecast", ROME),)
_PURGE: Final = (("purge", {"pattern": "a"}),)

_APART: Final = (
    calling(
        "same-index-no-ids", "Gemini, Ollama proxies", "Parallel calls, whole, all number 0, without ids",
        piece(_ROME, "forecast", index=0), piece(_OSLO, "forecast", index=0), CALLED, calls=_BOTH,
    ),
    calling(
        "same-index-same-ids", "Gemini proxies", "Parallel calls, all number 0, with the function's name as id",
        piece(_ROME, "forecast", index=0, id="forecast"), piece(_OSLO, "forecast", index=0, id="forecast"), CALLED,
        calls=_BOTH,
    ),
    calling(
        "same-index-streamed", "Gemini proxies", "Parallel calls in pieces, all number 0, without ids",
        piece("", "forecast", index=0), piece('{"city":', index=0), piece('"Rome"}', index=0),
        piece("", "forecast", index=0), piece('{"city":', index=0), piece('"Oslo"}', index=0), CALLED, calls=_BOTH,
    ),
    calling(
        "same-index-other-ids", "vLLM, older", "Parallel calls in pieces, all number 0, told apart by ids",
        piece("", "forecast", index=0, id="a"), piece(_ROME, index=0, id="a"),
        piece("", "forecast", index=0, id="b"), piece(_OSLO, index=0, id="b"), CALLED, calls=_BOTH,
    ),
    calling(
        "new-id-in-every-piece", "LM Studio", "Pieces after the first have a new id and an empty name",
        piece("", "purge", index=0, id="1"),
        *[piece(c, "", index=0, id=str(n)) for n, c in enumerate('{"pattern":"a"}', 2)], CALLED, calls=_PURGE,
    ),
    calling(
        "new-id-null-name", "LM Studio", "Pieces after the first have a new numeric id and no name",
        piece("", "purge", index=0, id=1), piece('{"pattern":', index=0, id=2), piece('"a"}', index=0, id=3), CALLED,
        calls=_PURGE,
    ),
    calling(
        "new-id-same-name", "proxies", "Every piece repeats the name, under a new id",
        piece('{"pattern":', "purge", index=0, id="1"), piece('"a"}', "purge", index=0, id="2"), CALLED, calls=_PURGE,
    ),
    calling(
        "header-again", "Groq, Together", "Every piece repeats id and name",
        piece("", "purge", index=0, id="1"), piece('{"pattern":', "purge", index=0, id="1"),
        piece('"a"}', "purge", index=0, id="1"), CALLED, calls=_PURGE,
    ),
    calling(
        "header-without-id-again", "Ollama", "Name again after the arguments, with none and without an id",
        piece('{"pattern":"a"}', "purge", index=0), piece("", "purge", index=0), CALLED, calls=_PURGE,
    ),
    calling(
        "said-twice", "vLLM, SGLang", "The last piece repeats the whole arguments",
        piece('{"pattern":', "purge", index=0, id="x"), piece('"a"}', index=0), piece('{"pattern":"a"}', index=0), CALLED,
        calls=_PURGE,
    ),
    calling(
        "no-index", "Cohere, older servers", "Calls without numbers; ids in the first piece only",
        piece('{"city":', "forecast", id="a"), piece('"Rome"}'), piece(_OSLO, "forecast", id="b"), CALLED, calls=_BOTH,
    ),
    calling(
        "index-from-one", "Claude behind proxies", "Numbers begin with 1: 0 was the text",
        piece("", "forecast", index=1, id="a"), piece(_ROME, index=1), piece(_OSLO, "forecast", index=2, id="b"), CALLED,
        calls=_BOTH,
    ),
    calling(
        "index-as-text", "proxies", "Numbers are encoded as text", piece('{"city":', "forecast", index="0", id="a"),
        piece('"Rome"}', index="0"), CALLED, calls=_ONE,
    ),
    calling(
        "interleaved", "OpenAI", "Pieces of parallel calls alternate",
        piece('{"city":', "forecast", index=0, id="a"), piece('{"city":', "forecast", index=1, id="b"),
        piece('"Rome"}', index=0), piece('"Oslo"}', index=1), CALLED, calls=_BOTH,
    ),
    calling(
        "name-in-pieces", "Fireworks, SGLang", "The name comes in pieces",
        piece("", "fore", index=0, id="a"), piece("", "cast", index=0), piece(_ROME, index=0), CALLED, calls=_ONE,
    ),
    calling(
        "name-last", "llama.cpp", "Arguments come before the name",
        piece('{"city":', index=0, id="a"), piece('"Rome"}', "forecast", index=0), CALLED, calls=_ONE,
    ),
    calling(
        "placeholder", "LiteLLM before Claude", "The first piece has {} as its arguments, the real ones follow",
        piece("{}", "forecast", index=0, id="a"), piece('{"city":', index=0), piece('"Rome"}', index=0), CALLED,
        calls=_ONE,
    ),
    calling(
        "arguments-as-object", "Ollama, llama.cpp", "Arguments are an object, not text",
        piece(ROME, "forecast", index=0, id="a"), CALLED, calls=_ONE,
    ),
    calling(
        "no-function-member", "proxies", "Name and arguments stand in the call itself",
        chunk({"tool_calls": [{"index": 0, "id": "a", "name": "forecast", "arguments": _ROME}]}), CALLED, calls=_ONE,
    ),
    calling(
        "function-call", "servers from before parallel calls", "function_call in place of tool_calls",
        chunk({"function_call": {"name": "forecast", "arguments": '{"city":'}}),
        chunk({"function_call": {"arguments": '"Rome"}'}}), chunk(finish="function_call"), calls=_ONE,
    ),
    calling(
        "finish-stop", "Ollama, Mistral", "The reason to stop is stop, although there are calls",
        piece(_ROME, "forecast", index=0, id="a"), STOP, calls=_ONE,
    ),
    calling(
        "finish-shouted", "Gemini, Vertex", "The reason to stop is TOOL_USE",
        piece(_ROME, "forecast", index=0, id="a"), chunk(finish="TOOL_USE"), calls=_ONE,
    ),
    calling(
        "twins-without-arguments", "proxies", "Two ids for one number; the first call has no arguments",
        piece("", "purge", index=0, id="1"), piece('{"pattern":"a"}', "purge", index=0, id="2"), CALLED,
        calls=(("purge", None), ("purge", {"pattern": "a"})),
    ),
    calling(
        "mixed-up", "proxies", "Pieces of two calls under one number, without ids",
        piece('{"city":', "forecast", index=0), piece('{"pattern":', "purge", index=0), piece('"Rome"}', index=0),
        piece('"a"}', index=0), CALLED, calls=(("forecast", None), ("purge", None)),
    ),
    calling(
        "new-id-and-finish", "OCI", "New ids in nameless pieces, the last of which has the reason to stop",
        piece("", "forecast", index=0, id="a"), piece('{"city": "', "", index=0, id="b"),
        {"choices": [{"index": 0, "finish_reason": "stop", "delta": {"tool_calls": [{"id": "c", "index": 0, "function": {"arguments": 'Rome"}', "name": ""}}]}}]},
        calls=_ONE,
    ),
    calling(
        "pieces-without-index", "Gemini", "Pieces of one call without any number", piece("", "forecast", id="a"),
        piece('{"city":'), piece('"Rome"}'), STOP, calls=_ONE,
    ),
    calling(
        "null-members-of-calls", "DeepSeek proxies", "Later pieces have null as id, name and type, lists have null members",
        piece("", "forecast", index=0, id="a"),
        chunk({"tool_calls": [None, {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": _ROME}}]}), CALLED,
        calls=_ONE,
    ),
    calling(
        "arguments-null", "Mistral, Ollama", "Arguments are the text null, for a tool that needs none",
        piece("null", "purge", index=0, id="1"), CALLED, calls=(("purge", {}),),
    ),
    calling(
        "arguments-encoded-twice", "GLM, Qwen", "Arguments are JSON in a JSON text",
        piece(json.dumps(_ROME), "forecast", index=0, id="1"), CALLED, calls=_ONE,
    ),
    calling(
        "no-arguments", "OpenAI", "A call of a tool that needs none, without arguments",
        piece("", "purge", index=0, id="1"), CALLED, calls=(("purge", {}),),
    ),
    calling(
        "arguments-missing", "any", "No arguments for a tool that needs some",
        piece("", "forecast", index=0, id="1"), CALLED, calls=(("forecast", None),),
    ),
    calling(
        "arguments-broken", "any", "Arguments that are no JSON object",
        piece('{"pattern": a', "purge", index=0, id="1"), CALLED, calls=(("purge", None),),
    ),
)  # fmt: skip


def _demanding(member: str, value: Any) -> Any:
    """Return a reply that refuses the calls' message unless what came with it came back."""

    def reply(request: Request) -> Sequence[Step]:
        said = [message for message in request.body["messages"] if message["role"] == "assistant"][-1]
        if said.get(member) == value or said["tool_calls"][0].get(member) == value:
            return DONE
        words = f"The `{member}` must be passed back to the API."
        return plain({"error": {"message": words, "type": "invalid_request_error"}}, status="400 Bad Request")

    return reply


def _refusing(member: str) -> Any:
    """Return a reply that refuses a member that it sent itself."""

    def reply(request: Request) -> Sequence[Step]:
        if any(member in message for message in request.body["messages"]):
            words = f"messages.1.assistant.{member}: Extra inputs are not permitted"
            return plain({"detail": words}, status="422 Unprocessable Entity")
        return DONE

    return reply


def _returned(name: str, family: str, quirk: str, second: Any, *chunks: Any, **fields: Any) -> Dialect:
    expected: dict[str, Any] = {"requests": 2, "text": "done", "calls": _ONE, **fields}
    return Dialect(
        name=name,
        family=family,
        kind="returned",
        quirk=quirk,
        wanted=TOOLS,
        replies=(stream(*chunks, CALLED), second),
        **expected,
    )


_CALL: Final = piece(_ROME, "forecast", index=0, id="x")
_SIGNED: Final = {"google": {"thought_signature": "c2ln"}}
_DETAILS: Final = [
    {"type": "reasoning.text", "index": 0, "text": "I need it.", "signature": "sig", "format": "x"},
    {"type": "reasoning.encrypted", "index": 1, "data": "AAA="},
]

_RETURNED: Final = (
    _returned(
        "reasoning-content", "DeepSeek, Kimi, GLM", "reasoning_content must come back with the calls it led to",
        _demanding("reasoning_content", "I need it."),
        chunk({"reasoning_content": "I need"}), chunk({"reasoning_content": " it."}), _CALL, reasoning="I need it.",
    ),
    _returned(
        "reasoning", "Groq, OpenRouter", "reasoning must come back under the same name", _demanding("reasoning", "Hm."),
        chunk({"reasoning": "Hm."}), _CALL, reasoning="Hm.",
    ),
    _returned(
        "reasoning-details", "OpenRouter, MiniMax", "reasoning_details come in pieces and must come back whole",
        _demanding("reasoning_details", _DETAILS),
        chunk({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "I need", "format": "x"}]}),
        chunk({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": " it.", "signature": "sig"}]}),
        chunk({"reasoning_details": [{"type": "reasoning.encrypted", "index": 1, "data": "AAA="}]}), _CALL,
        reasoning="I need it.",
    ),
    _returned(
        "thought-signature", "Gemini", "extra_content of a call, with its signature, must come back with it",
        _demanding("extra_content", _SIGNED), piece(_ROME, "forecast", index=0, id="x", extra_content=_SIGNED),
    ),
    _returned(
        "thinking-parts", "Mistral (Magistral)", "Content in parts, thinking and text, comes back in parts",
        _demanding("content", [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "So: "}]),
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        chunk({"content": "So: "}), _CALL, reasoning="hm", text="So: done",
    ),
    _returned(
        "signature-apart", "Gemini", "The signature of a call comes in a piece of its own",
        _demanding("extra_content", _SIGNED), _CALL,
        chunk({"tool_calls": [{"index": 0, "extra_content": _SIGNED}]}),
    ),
    _returned(
        "reasoning-parts", "Databricks", "Parts of reasoning with a summary and its signature come back as they were",
        _demanding("content", [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": "s"}]}]),
        chunk({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm", "signature": "s"}]}]}), _CALL,
        reasoning="hm",
    ),
    _returned(
        "think-tags-return", "MiniMax, Qwen", "A <think> block comes back in the text that it came in",
        _demanding("content", "<think>hm</think>So: "), chunk({"content": "<think>hm</think>So: "}), _CALL,
        reasoning="hm", text="So: done",
    ),
    _returned(
        "refuses-its-own", "Mistral, Cerebras, Groq", "What the provider sent is refused when it comes back: it goes without",
        _refusing("reasoning_content"), chunk({"reasoning_content": "Hm."}), _CALL, reasoning="Hm.", requests=3,
    ),
)  # fmt: skip

_LOOP: Final = (
    calling(
        "no-name", "Qwen behind vLLM", "A call without a name: the model is told", chunk({"content": "Look: "}),
        piece(_ROME, "", index=0, id="x"), CALLED, kind="loop", calls=(("unnamed", None),), text="Look: done",
    ),
    calling(
        "null-name", "Qwen behind vLLM", "A call whose name is null", piece(_ROME, index=0, id="x"), CALLED,
        kind="loop", calls=(("unnamed", None),),
    ),
    calling(
        "no-such-tool", "any", "A call of a tool that was not offered", piece("{}", "nosuch", index=0, id="x"), CALLED,
        kind="loop", calls=(("nosuch", None),),
    ),
    Dialect(
        name="calls-announced", family="vLLM, Ollama", kind="loop", quirk="The reason to stop is tool_calls, but there is no call",
        replies=(stream(chunk({"content": "Look: "}), CALLED),), wanted=TOOLS, text="Look: ", failure="without a call",
    ),
    Dialect(
        name="calls-announced-nothing-said", family="vLLM, Ollama", kind="loop",
        quirk="tool_calls without a call and without a word is asked again",
        replies=(stream(CALLED), stream(_CALL, CALLED), DONE), wanted=TOOLS, calls=_ONE, text="done", requests=3,
    ),
    Dialect(
        name="tool-calls-without-tools", family="Ollama", kind="loop", quirk="tool_calls is the reason to stop of every answer",
        replies=(stream(chunk({"content": "hi"}), CALLED),), text="hi",
    ),
)  # fmt: skip

_LONG: Final = json.dumps({"city": "y" * 300_000})
_DEEP: Final = '{"city":' + "[" * 400 + "]" * 400 + "}"
_LIMITS: Final = (
    calling(
        "large-arguments", "any", "Arguments of 300 kB", piece(_LONG[:9], "forecast", index=0, id="x"),
        *[piece(_LONG[at : at + 10_000], index=0) for at in range(9, len(_LONG), 10_000)], CALLED, kind="limits",
        calls=(("forecast", None),),
    ),
    calling(
        "large-piece", "any", "Arguments of 300 kB in one piece", piece(_LONG, "forecast", index=0, id="x"), CALLED,
        kind="limits", calls=(("forecast", None),),
    ),
    calling(
        "large-id", "Gemini proxies", "An id of 300 kB: the call gets another",
        piece(_ROME, "forecast", index=0, id="i" * 300_000), CALLED, kind="limits", calls=_ONE,
    ),
    calling(
        "large-name", "any", "A name of 300 kB", piece("{}", "n" * 300_000, index=0, id="x"), CALLED, kind="limits",
        calls=(("n" * 128, None),),
    ),
    calling(
        "deep-arguments", "any", "Arguments of 400 levels", piece(_DEEP, "forecast", index=0, id="x"), CALLED,
        kind="limits", calls=(("forecast", None),),
    ),
)  # fmt: skip

DIALECTS: Final = (*_APART, *_RETURNED, *_LOOP, *_LIMITS)
