"""Converts a thread's messages to AG-UI's, for a page that is opened again. Pure.

An answer that is not complete is left out: a client attaches to its run, which tells all of it.
"""

# parts are JSON: checked by folds, not by types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.ag_ui.messages import Names, of_fold
from mainstem_shared.model import ids
from mainstem_shared.model.contents import Content
from mainstem_shared.model.messages import Message

_DATA: Final = re.compile(r"data:([^;,]*);base64,")
_ANSWER: Final = re.compile(r"(?:msg|rsn|res|act)_([a-z2-7]{26})_.*", re.DOTALL)
_BESIDE: Final = frozenset({"input", "decision"})
_KINDS: Final = ("image", "audio", "video")


def agent_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return AG-UI messages, oldest first."""
    return [said for message in messages for said in _said(message)]


def _said(message: Message) -> list[dict[str, Any]]:
    if message.role != "assistant" or message.id != message.run_id:
        return [{"id": message.id, "role": message.role, "content": _content(message.parts)}]
    if message.status is None or not message.status.is_terminal:
        return []
    fold = Content()
    content = [part for part in message.parts if part["type"] not in _BESIDE]
    given = {} if message.output is None else {"output": message.output}
    fold.load({**fold.dump(), "content": content, **given})
    return of_fold(fold, Names(message.run_id))


def _content(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    said = [_part(part) for part in parts if part["type"] in ("text", "file")]
    if all(part["type"] == "text" for part in said):
        return "".join(part["text"] for part in said)
    return said


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    url, media_type = part["url"], part["media_type"]
    kind = next((kind for kind in _KINDS if media_type.startswith(kind)), "document")
    if (found := _DATA.match(url)) is not None:
        source = {"type": "data", "value": url[found.end() :], "mimeType": found[1]}
    else:
        source = {"type": "url", "value": url, "mimeType": media_type}
    named = {"filename": part["name"]} if "name" in part else {}
    return {"type": kind, "source": source, **named}


def last_said(messages: Sequence[Mapping[str, Any]], thread_run_id: str) -> tuple[str | None, str | None]:
    """Return the id of what the user said last, and of the answer of ours before it, as the thread has them.

    `thread_run_id`: any run of the thread, whose other runs are named like it.
    """
    numbers = [number for number, message in enumerate(messages) if message.get("role") == "user"]
    if not numbers or numbers[-1] != len(messages) - 1:
        return None, None
    tag, _ = ids.split(thread_run_id)
    said_id = messages[-1].get("id")
    for message in reversed(messages[:-1]):
        found = _ANSWER.fullmatch(str(message.get("id")))
        if found is not None:
            return (said_id if isinstance(said_id, str) else None), f"{tag}_{found[1]}"
    return (said_id if isinstance(said_id, str) else None), None
