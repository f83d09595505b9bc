"""Converts chat completions' messages to Anthropic's: instructions apart, roles that alternate, blocks.

Results stand at the head of the message after their calls. An answer that came as blocks goes back as these,
unchanged but for calls that humans have edited.
"""

# what clients send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from mainstem_shared.model import blob_references, digests, jsontext
from mainstem_tasks.engines.anthropic.events import BLOCKS
from mainstem_tasks.engines.turns.endpoints import Chat

_INSTRUCTIONS: Final = ("system", "developer")
_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_-]")
"""What ids and names of tools must not have."""
NAME_LIMIT: Final = 64
BEGINNING: Final = "(The conversation begins with the assistant.)"
"""Stands before an answer to nothing: a conversation begins with a user."""


def conversation(messages: Sequence[Chat]) -> tuple[list[Chat], list[Chat]]:
    """Return the instructions that stand before the conversation, as blocks, and its messages."""
    first = next((n for n, one in enumerate(messages) if one.get("role") not in _INSTRUCTIONS), len(messages))
    instructions = [block for one in messages[:first] for block in _blocks(one.get("content"))]
    turns: list[Chat] = []
    for role, blocks in map(_turn, messages[first:]):
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": BEGINNING}]})
    return instructions, turns


def _turn(message: Chat) -> tuple[str, list[Chat]]:
    match message.get("role"):
        case "assistant" if isinstance(blocks := message.get(BLOCKS), list):
            return "assistant", list(_as_they_came(blocks, message.get("tool_calls") or ()))
        case "assistant":
            calls = [_call(call) for call in message.get("tool_calls") or ()]
            return "assistant", [*_blocks(message.get("content")), *calls]
        case "tool":
            content = _blocks(message.get("content"))
            return "user", [
                {"type": "tool_result", "tool_use_id": _fit(message.get("tool_call_id")), "content": content}
            ]
        case _:
            return "user", _blocks(message.get("content"))


def _as_they_came(blocks: Sequence[Chat], calls: Sequence[Chat]) -> Iterator[Chat]:
    """Yield an answer's blocks; its calls are those of the message, which humans may have edited."""
    left = iter(calls)
    for block in blocks:
        if block.get("type") == "tool_use":
            if (call := next(left, None)) is not None:
                yield {**block, **_call(call)}
        elif block.get("type") != "text" or str(block.get("text", "")).strip():
            yield block  # blank texts are refused, also those that came


def _call(call: Chat) -> Chat:
    function = call.get("function") or {}
    return {
        "type": "tool_use",
        "id": _fit(call.get("id")),
        "name": _fit(function.get("name")),
        "input": _object(function.get("arguments")),
    }


def _object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        parsed = jsontext.checked(arguments)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _fit(name: Any) -> str:
    """Return an id or a name in the letters that Anthropic takes; others of other providers stay apart."""
    text = str(name or "")
    if text and not _UNFIT.search(text) and len(text) <= NAME_LIMIT:
        return text
    digest = digests.hex_digest(text.encode("utf-8", "surrogatepass"), size=4)
    return f"{_UNFIT.sub('_', text)[: NAME_LIMIT - 9]}_{digest}"


# -- what was said


def _blocks(content: Any) -> list[Chat]:
    if isinstance(content, list):
        return [block for part in content for block in _part(part)]
    return list(_text(content)) if isinstance(content, str) else []


def _text(text: Any) -> Iterator[Chat]:
    if isinstance(text, str) and text.strip():
        yield {"type": "text", "text": text}


def _part(part: Any) -> Iterator[Chat]:
    match part:
        case {"type": "text", "text": str(text)}:
            yield from [part] if text.strip() else []
        case {"type": "refusal", "refusal": text}:
            yield from _text(text)
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            yield _file(url, "picture", is_image=True)
        case {"type": "file", "file": {"file_data": str(url), **more}}:
            yield _file(url, str(more.get("filename") or "file"))
        case {"type": "file", "file": {"file_id": str(file_id)}}:
            yield {"type": "document", "source": {"type": "file", "file_id": file_id}}
        case {"type": "input_audio" | "audio"}:
            yield from _text("[a recording, which this model cannot hear]")
        case dict():
            yield part  # Anthropic's own
        case _:
            yield from _text(part)


def _file(url: str, name: str, *, is_image: bool = False) -> Chat:
    """Return a picture or a document as a block; what the model cannot read is named to it."""
    found = blob_references.decoded(url)
    if found is None:
        source: Chat = {"type": "url", "url": url}
        return {"type": "image" if is_image else "document", "source": source}
    data, media_type = found
    if media_type.startswith("image/"):
        return {"type": "image", "source": _base64(url, media_type)}
    if media_type == "application/pdf":
        return {"type": "document", "source": _base64(url, media_type), "title": name}
    if media_type.startswith("text/") or media_type == "application/json":
        text = data.decode("utf-8", "replace")
        return {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": text},
            "title": name,
        }
    return {"type": "text", "text": f"[{name} ({media_type}), which this model cannot read]"}


def _base64(url: str, media_type: str) -> Chat:
    return {"type": "base64", "media_type": media_type, "data": url.partition(",")[2]}
