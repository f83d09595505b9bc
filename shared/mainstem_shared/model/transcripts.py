"""Converts a thread's messages to chat completions' messages, the shape that models take. Pure.

What comes out is valid to every provider: a tool call is followed by its result, also one that nobody
answered, and nobody says nothing. Reasoning, data and sources are for people; no model takes them back.
"""

# parts are JSON: checked by folds, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from mainstem_shared.model import jsontext
from mainstem_shared.model.messages import Message

UNANSWERED: Final = "The call was not answered."
"""Stands in for a result that a call has not."""
Chat = dict[str, Any]


def chat(messages: Iterable[Message]) -> list[Chat]:
    """Return messages as chat completions' messages, oldest first."""
    return chat_of((message.role, message.parts) for message in messages)


def chat_of(turns: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[Chat]:
    """Return the same for roles and parts that belong to no message yet."""
    return [said for role, parts in turns for said in _of(role, parts)]


def _of(role: str, parts: Sequence[Mapping[str, Any]]) -> Iterator[Chat]:
    if role == "assistant":
        yield from _Answer().of(parts)
    elif content := _content(parts):
        yield {"role": role, "content": content}


def _content(parts: Sequence[Mapping[str, Any]]) -> str | list[Chat]:
    """Return what a user said: text alone as text, with files as a list of parts."""
    pieces = [piece for part in parts if (piece := _piece(part)) is not None]
    if all(piece["type"] == "text" for piece in pieces):
        return "".join(piece["text"] for piece in pieces)
    return pieces


def _piece(part: Mapping[str, Any]) -> Chat | None:
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]} if part["text"] else None
        case "file":
            return _file(part)
        case "data":
            return {"type": "text", "text": json_text(part["value"])}
        case _:
            return None


def _file(part: Mapping[str, Any]) -> Chat:
    url = str(part.get("url", ""))
    if str(part.get("media_type", "")).startswith("image"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": str(part.get("name") or "file"), "file_data": url}}


class _Answer:
    """An answer as the rounds it was made of: text, calls, their results, and again."""

    def __init__(self) -> None:
        self._text = ""
        self._calls: list[Chat] = []
        self._results: list[Chat] = []

    def of(self, parts: Sequence[Mapping[str, Any]]) -> Iterator[Chat]:
        for part in parts:
            match part["type"]:
                case "text" | "refusal":
                    if self._calls:
                        yield from self._round()
                    self._text += part["text"]
                case "tool_call" if part["state"] != "streaming":
                    self._call(part)
                case "input":
                    yield from self._round()
                    yield {"role": "user", "content": part["text"]}
                case "decision":
                    yield from self._decided(part)
                case _:
                    pass
        yield from self._round()

    def _round(self) -> Iterator[Chat]:
        if self._text or self._calls:
            said: Chat = {"role": "assistant", "content": self._text or None}
            yield {**said, "tool_calls": self._calls} if self._calls else said
            yield from self._results
        self._text, self._calls, self._results = "", [], []

    def _call(self, part: Mapping[str, Any]) -> None:
        function = {"name": part["name"], "arguments": _arguments(part["arguments"])}
        self._calls.append({"id": part["call_id"], "type": "function", "function": function})
        answered = part["state"] in ("completed", "failed") or part["result"] is not None
        content = json_text(part["result"]) if answered else UNANSWERED
        self._results.append({"role": "tool", "tool_call_id": part["call_id"], "content": content})

    def _decided(self, part: Mapping[str, Any]) -> Iterator[Chat]:
        """Show questions and answers as what was said; decisions about calls show in the calls' results."""
        asked = {q["question_id"]: q["text"] for q in (part.get("asked") or {}).get("questions", ())}
        for decision in part.get("decisions", ()):
            if decision.get("type") == "answer":
                self._text += asked.get(decision["id"], "")
                yield from self._round()
                yield {"role": "user", "content": decision["text"]}


def _arguments(value: Any) -> str:
    """Return arguments as a JSON object: text that broke off is none, and some providers look."""
    text = json_text(value)
    try:
        return text if isinstance(jsontext.checked(text), dict) else "{}"
    except (ValueError, RecursionError):
        return "{}"


def json_text(value: Any) -> str:
    """Return arguments or a result as text: JSON, unless it is text already."""
    return value if isinstance(value, str) else jsontext.dumps(value).decode("utf-8", "surrogatepass")
