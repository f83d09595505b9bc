"""Converts a conversation to the Agents SDK's items, those of the Responses API."""

# the SDK's items hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mainstem_tasks.engines.frameworks.conversations import Chat

Item = dict[str, Any]


def input_items(chat: Iterable[Chat]) -> list[Any]:
    """Return chat completions' messages as input items."""
    return [item for said in chat for item in _of(said)]


def plain_answers(items: Any) -> Any:
    """Return input items with earlier answers as `input_items` makes them.

    The SDK's `RunState` writes them as output without an id, which its model for chat completions refuses.
    """
    return [_plain(item) for item in items] if isinstance(items, list) else items


def _plain(item: Any) -> Any:
    match item:
        case {"role": "assistant", "content": [*pieces]} if "type" not in item:
            return {"role": "assistant", "content": "".join(str(piece.get("text", "")) for piece in pieces)}
        case _:
            return item


def _of(said: Chat) -> Iterator[Item]:
    match said["role"]:
        case "assistant":
            if said.get("content"):
                yield {"role": "assistant", "content": said["content"]}
            for call in said.get("tool_calls") or ():
                function = call["function"]
                yield {
                    "type": "function_call",
                    "call_id": call["id"],
                    "name": function["name"],
                    "arguments": function["arguments"],
                }
        case "tool":
            yield {
                "type": "function_call_output",
                "call_id": said["tool_call_id"],
                "output": said["content"],
            }
        case role:
            yield {"role": role, "content": _content(said["content"])}


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else [_piece(piece) for piece in content or ()]


def _piece(piece: dict[str, Any]) -> Item:
    match piece["type"]:
        case "text":
            return {"type": "input_text", "text": piece["text"]}
        case "image_url":
            return {"type": "input_image", "image_url": piece["image_url"]["url"], "detail": "auto"}
        case _:
            return {"type": "input_file", **piece["file"]}
