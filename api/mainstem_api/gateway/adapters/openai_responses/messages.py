"""Converts messages of threads and of inputs to items of the Responses API, in pages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mainstem_api.gateway.adapters.engine_input import json_text
from mainstem_shared import errors

Order = Literal["asc", "desc"]


def items_of(message_id: str, role: str, parts: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a message as items: texts and files are one; each reasoning, call and result is its own."""
    content: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        if part["type"] in ("tool_call", "reasoning"):
            if content:
                yield _message(f"msg_{message_id}_{number}", role, content)
                content = []
            yield from (_call if part["type"] == "tool_call" else _reasoning)(f"{message_id}_{number}", part)
        elif (piece := _piece(role, part)) is not None:
            content.append(piece)
    if content:
        yield _message(f"msg_{message_id}", role, content)


def _message(item_id: str, role: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": role, "status": "completed", "content": content}


def _piece(role: str, part: Mapping[str, Any]) -> dict[str, Any] | None:
    match part["type"]:
        case "text" if role == "assistant":
            noted = list(part.get("annotations") or ())
            return {"type": "output_text", "text": part["text"], "annotations": noted, "logprobs": []}
        case "text":
            return {"type": "input_text", "text": part["text"]}
        case "refusal":
            return {"type": "refusal", "refusal": part["text"]}
        case "file" if str(part.get("media_type", "")).startswith("image"):
            return {"type": "input_image", "image_url": part["url"], "detail": "auto"}
        case "file":
            return {"type": "input_file", "filename": part.get("name"), "file_url": part["url"]}
        case _:
            return None


def _call(item_id: str, part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    about = {"call_id": part["call_id"], "status": "completed"}
    arguments = json_text(part["arguments"])
    yield {
        "id": f"fc_{item_id}",
        "type": "function_call",
        "name": part["name"],
        "arguments": arguments,
        **about,
    }
    if part["state"] not in ("streaming", "called"):
        output = json_text(part["result"])
        yield {"id": f"fco_{item_id}", "type": "function_call_output", "output": output, **about}


def _reasoning(item_id: str, part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content = [{"type": "reasoning_text", "text": part["text"]}]
    yield {
        "id": f"rs_{item_id}",
        "type": "reasoning",
        "summary": [],
        "status": "completed",
        "content": content,
    }


def page(
    items: Sequence[Mapping[str, Any]], *, order: Order, after: str | None, limit: int
) -> dict[str, Any]:
    """Return a page of items, which are given from the oldest on.

    Raises:
        NotFound: there is no item `after`.
    """
    ordered = list(items if order == "asc" else reversed(items))
    if after is not None:
        at = next((at for at, item in enumerate(ordered) if item["id"] == after), None)
        if at is None:
            raise errors.NotFound("No such item.")
        ordered = ordered[at + 1 :]
    shown = ordered[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(ordered) > limit,
    }
