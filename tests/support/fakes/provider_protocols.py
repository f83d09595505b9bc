"""The strict provider's answers, planned as deltas of chat completions, in the words of Responses and of Anthropic.

Requests of both become chat completions' messages for the plan. What is said of a thought is signed, so that a history
which does not give it back unchanged is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mainstem_tasks.testing import signature

Event = dict[str, Any]
THINKING = "Let me see."


def as_chat(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Return a request of any protocol as one of chat completions."""
    if path.endswith("/messages"):
        tools = [{"function": {"name": tool["name"]}} for tool in asked.get("tools") or ()]
        messages = [one for message in asked["messages"] for one in _of_anthropic(message)]
    elif path.endswith("/responses"):
        tools = [{"function": {"name": tool["name"]}} for tool in asked.get("tools") or ()]
        messages = [one for item in asked["input"] for one in _of_item(item)]
    else:
        return asked
    return {**asked, "messages": messages, "tools": tools}


def _of_anthropic(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    content = message["content"]
    said = [block for block in content if block["type"] in ("text", "image", "document")]
    for block in content:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": block["content"]}
    if message["role"] == "user":
        if said:
            yield {"role": "user", "content": said}
        return
    calls = [_call(b["id"], b["name"], json.dumps(b["input"])) for b in content if b["type"] == "tool_use"]
    yield {"role": "assistant", "content": said, "tool_calls": calls}


def _of_item(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    match item.get("type", "message"):
        case "function_call":
            call = _call(item["call_id"], item["name"], item["arguments"])
            yield {"role": "assistant", "content": None, "tool_calls": [call]}
        case "function_call_output":
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
        case "message":
            yield {"role": item["role"], "content": item["content"]}
        case _:
            pass


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


def events(path: str, plan: Iterator[dict[str, Any] | str]) -> Iterator[Event | str]:
    """Yield the events of an answer; `silent` and `reset` are what the connection does."""
    return _anthropic(plan) if path.endswith("/messages") else _responses(plan)


# -- Anthropic


def _anthropic(plan: Iterator[dict[str, Any] | str]) -> Iterator[Event | str]:
    usage = {
        "input_tokens": 36,
        "cache_read_input_tokens": 64,
        "cache_creation_input_tokens": 0,
        "output_tokens": 1,
    }
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "mock-1",
        "content": [],
        "usage": usage,
    }
    yield {"type": "message_start", "message": message}
    yield {"type": "ping"}
    at, kind, thought = -1, "", ""
    for item in plan:
        if isinstance(item, str):
            if kind == "thinking":
                yield _delta(at, type="signature_delta", signature=signature(thought))
            if kind:
                yield {"type": "content_block_stop", "index": at}
            if item in ("silent", "reset"):
                yield item
                return
            reason = {"stop": "end_turn", "tool_calls": "tool_use"}[item]
            told = {"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2}}
            yield {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": told}
            yield {"type": "message_stop"}
            return
        for new, block, delta in _blocks(item):
            if block is not None or new != kind:
                if kind == "thinking":
                    yield _delta(at, type="signature_delta", signature=signature(thought))
                if kind:
                    yield {"type": "content_block_stop", "index": at}
                at, kind = at + 1, new
                yield {"type": "content_block_start", "index": at, "content_block": block or _empty(new)}
            thought += delta.get("thinking", "")
            yield _delta(at, **delta)


def _delta(at: int, **delta: Any) -> Event:
    return {"type": "content_block_delta", "index": at, "delta": delta}


def _empty(kind: str) -> dict[str, Any]:
    return (
        {"type": "thinking", "thinking": "", "signature": ""}
        if kind == "thinking"
        else {"type": "text", "text": ""}
    )


def _blocks(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None, dict[str, Any]]]:
    """Yield the kind of block that a delta belongs to, the block that it begins if it does, and Anthropic's delta."""
    if text := item.get("reasoning_content"):
        yield "thinking", None, {"type": "thinking_delta", "thinking": text}
    if text := item.get("content"):
        yield "text", None, {"type": "text_delta", "text": text}
    for piece in item.get("tool_calls") or ():
        begun = None
        if "id" in piece:
            begun = {"type": "tool_use", "id": piece["id"], "name": piece["function"]["name"], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": piece["function"]["arguments"]}
        yield "tool_use", begun, delta


# -- Responses


def _responses(plan: Iterator[dict[str, Any] | str]) -> Iterator[Event | str]:
    yield {
        "type": "response.created",
        "response": {"id": "resp_1", "model": "mock-1", "status": "in_progress"},
    }
    items: list[dict[str, Any]] = []
    kind = ""
    for item in plan:
        if isinstance(item, str):
            if item in ("silent", "reset"):
                yield item
                return
            if kind:
                yield _done(items)
            usage = {
                "input_tokens": 100,
                "output_tokens": 7,
                "total_tokens": 107,
                "input_tokens_details": {"cached_tokens": 64},
                "output_tokens_details": {"reasoning_tokens": 2},
            }
            whole = {
                "id": "resp_1",
                "model": "mock-1",
                "status": "completed",
                "output": items,
                "usage": usage,
            }
            yield {"type": "response.completed", "response": whole}
            return
        for new, begun, event in _items(item):
            if begun is not None or new != kind:
                if kind:
                    yield _done(items)
                kind = new
                items.append(begun or _fresh(new, len(items)))
                yield {
                    "type": "response.output_item.added",
                    "output_index": len(items) - 1,
                    "item": dict(items[-1]),
                }
            _grow(items[-1], event["delta"])
            yield {"output_index": len(items) - 1, **event}


def _done(items: list[dict[str, Any]]) -> Event:
    return {"type": "response.output_item.done", "output_index": len(items) - 1, "item": items[-1]}


def _fresh(kind: str, number: int) -> dict[str, Any]:
    if kind == "reasoning":
        own = f"rs_{number}"
        return {"type": "reasoning", "id": own, "summary": [], "encrypted_content": signature(own)}
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": []}


def _grow(item: dict[str, Any], text: str) -> None:
    if item["type"] == "function_call":
        item["arguments"] += text
        return
    name, kind = ("summary", "summary_text") if item["type"] == "reasoning" else ("content", "output_text")
    known = item[name][0]["text"] if item[name] else ""
    item[name] = [{"type": kind, "text": known + text}]


def _items(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None, Event]]:
    if text := item.get("reasoning_content"):
        event = {"type": "response.reasoning_summary_text.delta", "summary_index": 0, "delta": text}
        yield "reasoning", None, event
    if text := item.get("content"):
        yield "message", None, {"type": "response.output_text.delta", "delta": text}
    for piece in item.get("tool_calls") or ():
        begun = None
        if "id" in piece:
            call = {"call_id": piece["id"], "name": piece["function"]["name"], "arguments": ""}
            begun = {"type": "function_call", "id": f"fc_{piece['id']}", **call}
        yield (
            "call",
            begun,
            {"type": "response.function_call_arguments.delta", "delta": piece["function"]["arguments"]},
        )
