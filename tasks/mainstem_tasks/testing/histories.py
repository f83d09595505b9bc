"""Refuses message lists that real providers refuse, for test servers that stand in for them.

`strict(reply)` answers 400, in the provider's words, where the history is invalid, and plays `reply`
otherwise. Signatures and encrypted content can be told from forged ones: a test makes them by `signature`.
"""

# requests are JSON: checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from mainstem_shared.model import digests
from mainstem_tasks.testing.provider_server import Reply, Request, Step

_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_THOUGHTS: Final = ("thinking", "redacted_thinking")
Faults = Iterator[str]


def signature(text: str) -> str:
    """Return the signature of a thought by its text, or the encrypted content of reasoning by its id."""
    return f"sig-{digests.hex_digest(text.encode('utf-8', 'surrogatepass'), size=12)}"


def strict(reply: Reply) -> Callable[[Request], Sequence[Step]]:
    """Return a reply that refuses invalid histories with 400; the request's path tells its protocol."""

    def answer(request: Request) -> Sequence[Step]:
        if (fault := fault_of(request.path, request.body)) is not None:
            return refusal(request.path, fault)
        return reply(request) if callable(reply) else reply

    return answer


def refusal(path: str, words: str) -> Sequence[bytes]:
    """Return a 400 with these words."""
    error = {"type": "invalid_request_error", "message": words}
    body = {"type": "error", "error": error} if _ends(path, "/messages") else {"error": error}
    data = json.dumps(body).encode()
    head = (
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        f"content-length: {len(data)}\r\n\r\n"
    )
    return (head.encode() + data,)


def fault_of(path: str, body: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a request; None if nothing is. Its protocol is told by its path."""
    if _ends(path, "/messages"):
        faults = _messages_faults(body)
    elif _ends(path, "/responses"):
        faults = _responses_faults(body)
    else:
        faults = _chat_faults(body["messages"])
    return next(faults, None)


def _ends(path: str, end: str) -> bool:
    return path.partition("?")[0].endswith(end)


# -- Anthropic's Messages


def _messages_faults(body: Mapping[str, Any]) -> Faults:
    if not isinstance(body.get("max_tokens"), int):
        yield "max_tokens: Field required"
    messages = body.get("messages") or []
    if not messages or messages[0]["role"] != "user":
        yield 'messages: first message must use the "user" role'
    before: Mapping[str, Any] = {"role": "assistant", "content": []}
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if message["role"] not in ("user", "assistant") or message["role"] == before["role"]:
            yield f'{where}: roles must alternate between "user" and "assistant"'
        for at, block in enumerate(_blocks(message)):
            yield from _block_faults(block, message["role"], f"{where}.content.{at}")
        yield from _result_faults(_blocks(before), _blocks(message), where)
        before = message
    if any(block["type"] == "tool_use" for block in _blocks(before)):
        yield f"messages.{len(messages)}: `tool_use` ids were found without `tool_result` blocks"
    if before["role"] == "assistant" and not any(b["type"] == "server_tool_use" for b in _blocks(before)):
        yield "the conversation must end with a user message"
    if (body.get("thinking") or {}).get("type") == "enabled":
        yield from _thought_faults(messages)


def _blocks(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _block_faults(block: Mapping[str, Any], role: str, where: str) -> Faults:
    match block["type"]:
        case "text" if not block["text"].strip():
            yield f"{where}: text content blocks must contain non-whitespace text"
        case "thinking" if block.get("signature") != signature(block["thinking"]):
            yield f"{where}: Invalid `signature` in `thinking` block"
        case "redacted_thinking" if not str(block.get("data", "")).startswith("sig-"):
            yield f"{where}: Invalid `data` in `redacted_thinking` block"
        case "tool_use" if role != "assistant" or not isinstance(block["input"], dict):
            yield f"{where}.tool_use: Input should be a valid dictionary"
        case "tool_use" if not _ID.fullmatch(block["id"]) or not _ID.fullmatch(block["name"]):
            yield f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        case "tool_result" if role != "user":
            yield f"{where}: `tool_result` blocks can only be in `user` messages"
        case _:
            pass


def _result_faults(
    before: Sequence[Mapping[str, Any]], blocks: Sequence[Mapping[str, Any]], where: str
) -> Faults:
    """Results follow their calls at once, at the head of the message, each once."""
    called = [block["id"] for block in before if block["type"] == "tool_use"]
    answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    if missing := [one for one in called if one not in answered]:
        yield f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing}"
    if unexpected := [one for one in answered if one not in called]:
        yield f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {unexpected}"
    if len(set(answered)) != len(answered):
        yield f"{where}: each tool_use must have a single result"
    if called and any(block["type"] != "tool_result" for block in blocks[: len(called)]):
        yield f"{where}: tool_result blocks must come first"


def _thought_faults(messages: Sequence[Mapping[str, Any]]) -> Faults:
    """While tools are at work, their calls stand after the thoughts that they came from."""
    last = messages[-2] if len(messages) > 1 else None
    if last is None or not any(block["type"] == "tool_result" for block in _blocks(messages[-1])):
        return
    if _blocks(last)[0]["type"] not in _THOUGHTS:
        found = _blocks(last)[0]["type"]
        where = f"messages.{len(messages) - 2}.content.0.type"
        yield f"{where}: Expected `thinking` or `redacted_thinking`, but found `{found}`"


# -- OpenAI's Responses


def _responses_faults(body: Mapping[str, Any]) -> Faults:
    items = body.get("input") or []
    before: Mapping[str, Any] = {}
    for number, item in enumerate(items):
        where = f"input[{number}]"
        is_models = item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning")
        if before.get("type") == "reasoning" and not is_models:
            yield f"{where}: 'reasoning' was provided without its required following item"
        yield from _item_faults(item, where)
        before = item
    yield from _call_faults(items)
    if not items or before.get("type") == "reasoning" or before.get("role") == "assistant":
        yield "there is nothing to answer"


def _item_faults(item: Mapping[str, Any], where: str) -> Faults:
    match item.get("type", "message"):
        case "reasoning" if item.get("encrypted_content") != signature(item.get("id", "")):
            yield f"{where}: The encrypted content could not be verified"
        case "function_call" if not _is_object(item["arguments"]):
            yield f"{where}.arguments: no JSON object"
        case "message" if not item.get("content"):
            yield f"{where}.content: empty"
        case _:
            pass


def _call_faults(items: Sequence[Mapping[str, Any]]) -> Faults:
    called = [item["call_id"] for item in items if item.get("type") == "function_call"]
    answered = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    if missing := [one for one in called if one not in answered]:
        yield f"No tool output found for function call {missing[0]}"
    if unexpected := [one for one in answered if one not in called]:
        yield f"No tool call found for function call output with call_id {unexpected[0]}"


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError):
        return False


# -- chat completions


def _chat_faults(messages: Sequence[Mapping[str, Any]]) -> Faults:
    pending: list[str] = []
    for number, message in enumerate(messages):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in pending:
                yield f"message {number}: {message.get('tool_call_id')} answers no call"
            else:
                pending.remove(message["tool_call_id"])
            continue
        if pending:
            yield f"message {number}: the calls {pending} have no result"
        calls = message.get("tool_calls") or () if message["role"] == "assistant" else ()
        pending = [call["id"] for call in calls]
        if broken := [call["id"] for call in calls if not _is_object(call["function"]["arguments"])]:
            yield f"message {number}: the arguments of {broken} are no JSON object"
        if message["role"] == "assistant" and not (calls or message.get("content") or message.get("refusal")):
            yield f"message {number}: an answer that says nothing"
    if pending:
        yield f"the calls {pending} have no result at the end"
    if not messages or messages[-1]["role"] == "assistant":
        yield "there is nothing to answer"
