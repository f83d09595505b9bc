"""Carries a graph's stream into the run: text, reasoning, tool calls and results, and what nodes write."""

# messages hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from pydantic_core import to_jsonable_python

from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.engines.langgraph.following import Following
from mainstem_tasks.sdk.context import RunContext


class Streaming:
    """One segment's stream on its way into the run."""

    def __init__(self, run: RunContext[Any], calls: ToolCalls, following: Following) -> None:
        self._run = run
        self._calls = calls
        self._following = following
        self._streamed: dict[tuple[str | None, Any], str] = {}
        self._told: set[str] = set()
        self._written = 0

    async def take(self, mode: str, data: Any) -> None:
        """Emit one item of the stream."""
        match mode:
            case "messages":
                await self._message(data[0])
            case "updates":
                for message in _messages_in(data):
                    await self._whole(message)
            case "custom":
                await self._wrote(data)
            case _:
                pass

    async def _message(self, message: BaseMessage) -> None:
        match message:
            case AIMessageChunk():
                await self._chunk(message)
            case AIMessage() if message.id not in self._told:  # its model does not stream
                await self._content(message)
            case ToolMessage():
                await self._answer(message)
            case _:
                pass

    async def _chunk(self, chunk: AIMessageChunk) -> None:
        if chunk.id is not None:
            self._told.add(chunk.id)
        if chunk.content or chunk.additional_kwargs:
            await self._content(chunk)
        for piece in chunk.tool_call_chunks:
            place = (chunk.id, piece.get("index"))
            if place not in self._streamed and (call_id := piece.get("id")):
                self._streamed[place] = call_id
                await self._calls.begin(call_id, piece.get("name") or "")
            if (text := piece.get("args")) and place in self._streamed:
                self._following.heard(chunk.id, text)
                await self._calls.grow(self._streamed[place], text)

    async def _content(self, message: AIMessage) -> None:
        thought = message.additional_kwargs.get("reasoning_content")
        if isinstance(thought, str) and thought:
            await self._thought(message.id, thought)
        blocks = [message.content] if isinstance(message.content, str) else message.content
        for block in blocks:
            match block:
                case str() if block:
                    await self._said(message.id, block)
                case {"type": "text", "text": str() as text}:
                    await self._said(message.id, text)
                case {"type": "reasoning" | "thinking", **rest}:
                    await self._thought(message.id, _reasoning(rest))
                case _:
                    pass

    async def _said(self, message_id: str | None, text: str) -> None:
        self._following.heard(message_id, text)
        await self._run.text(text)

    async def _thought(self, message_id: str | None, text: str) -> None:
        self._following.heard(message_id, text)
        await self._run.reasoning(text)

    async def _whole(self, message: BaseMessage) -> None:
        """State the calls of a whole answer, before the next step runs them; or answer one."""
        match message:
            case AIMessage():
                for call in message.tool_calls:
                    await self._calls.complete(str(call["id"]), call["name"], call["args"])
            case ToolMessage():
                await self._answer(message)
            case _:
                pass

    async def _answer(self, message: ToolMessage) -> None:
        result = to_jsonable_python(message.content, serialize_unknown=True)
        await self._calls.answer(message.tool_call_id, result, failed=message.status == "error")

    async def _wrote(self, data: Any) -> None:
        """Show what a node wrote as data: under its own `id` and `name`, if it has them."""
        self._written += 1
        value = to_jsonable_python(data, serialize_unknown=True)
        known: dict[str, Any] = value if isinstance(value, dict) else {}
        part_id = str(known.get("id") or f"written_{self._run.segment}_{self._written}")
        await self._run.data(part_id, str(known.get("name") or known.get("type") or "custom"), value)


def _reasoning(block: dict[str, Any]) -> str:
    text = block.get("reasoning") or block.get("thinking")
    if isinstance(text, str):
        return text
    return "".join(str(piece.get("text", "")) for piece in block.get("summary") or ())


def _messages_in(update: Any) -> Iterator[BaseMessage]:
    """Yield the messages of a step's updates, by node; a node may have been run several times."""
    for made in (update or {}).values():
        for one in made if isinstance(made, list) else [made]:
            found = one.get("messages") if isinstance(one, dict) else None
            yield from (
                m for m in (found if isinstance(found, list) else [found]) if isinstance(m, BaseMessage)
            )
