"""Carries a graph's stream into the run: text, reasoning, tool calls and results, and what nodes write."""

# messages hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterator
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from pydantic_core import to_jsonable_python

from mainstem_tasks.engines.frameworks.agents import Place, Speaker, ToolAgents
from mainstem_tasks.engines.langgraph.following import Following


class Streaming:
    """One segment's stream on its way into the run, and what its tools' agents say into theirs."""

    def __init__(self, agents: ToolAgents, following: Following) -> None:
        self._agents = agents
        self._following = following
        self._streamed: dict[tuple[str | None, Any], str] = {}
        self._told: set[str] = set()
        self._answered: set[str] = set()
        """Messages of tools by which a call got its result."""
        self._written = 0

    def quick(self, message: BaseMessage) -> Awaitable[None] | None:
        """Return the emission of words of the run's own agent, as nearly all items are; else None."""
        by, words = self._agents.only, message.content
        if by is None or not isinstance(message, AIMessageChunk) or not isinstance(words, str) or not words:
            return None
        if message.additional_kwargs or message.tool_call_chunks:
            return None
        if message.id is not None:
            self._told.add(message.id)
        self._following.note_output(message.id, words)
        return by.says.text(words)

    async def take(self, namespace: Place, mode: str, data: Any) -> None:
        """Emit one item of the stream, of the graph or of one below it."""
        match mode:
            case "messages":
                by = self._agents.only or await self._agents.at(namespace, name=_agent_of(data[1], namespace))
                await self._message(namespace, by, data[0])
            case "updates":
                told = list(_messages_in(data))
                names = (message.name for message in told if isinstance(message, AIMessage))
                by = await self._agents.at(namespace, name=next(filter(None, names), None))
                answered = {
                    m.tool_call_id for m in told if isinstance(m, ToolMessage) and m.id in self._answered
                }
                for message in told:
                    await self._whole(namespace, by, message, answered)
            case "custom":
                await self._wrote(await self._agents.at(namespace), data)
            case _:
                pass

    async def _message(self, place: Place, by: Speaker, message: BaseMessage) -> None:
        match message:
            case AIMessageChunk():
                await self._chunk(by, message)
            case AIMessage() if message.id not in self._told:  # its model does not stream
                await self._content(by, message)
            case ToolMessage():
                await self._answer(place, by, message)
            case _:
                pass

    async def _chunk(self, by: Speaker, chunk: AIMessageChunk) -> None:
        if chunk.id is not None:
            self._told.add(chunk.id)
        if chunk.content or chunk.additional_kwargs:
            await self._content(by, chunk)
        for piece in chunk.tool_call_chunks:
            place = (chunk.id, piece.get("index"))
            if place not in self._streamed and (call_id := piece.get("id")):
                self._streamed[place] = call_id
                await by.calls.begin(call_id, piece.get("name") or "")
            if (text := piece.get("args")) and place in self._streamed:
                self._following.note_output(chunk.id, text)
                await by.calls.grow(self._streamed[place], text)

    async def _content(self, by: Speaker, message: AIMessage) -> None:
        thought = message.additional_kwargs.get("reasoning_content")
        if isinstance(thought, str) and thought:
            await self._thought(by, message.id, thought)
        blocks = [message.content] if isinstance(message.content, str) else message.content
        for block in blocks:
            match block:
                case str() if block:
                    await self._said(by, message.id, block)
                case {"type": "text", "text": str() as text}:
                    await self._said(by, message.id, text)
                case {"type": "reasoning" | "thinking", **rest}:
                    await self._thought(by, message.id, _reasoning(rest))
                case _:
                    pass

    async def _said(self, by: Speaker, message_id: str | None, text: str) -> None:
        self._following.note_output(message_id, text)
        await by.says.text(text)

    async def _thought(self, by: Speaker, message_id: str | None, text: str) -> None:
        self._following.note_output(message_id, text)
        await by.says.reasoning(text)

    async def _whole(
        self, place: Place, by: Speaker, message: BaseMessage, answered: Collection[str]
    ) -> None:
        """State the calls of a whole answer, before the next step runs them; or answer one.

        Middleware that answers a call itself tells the call once more, after the answer: not if `answered`.
        """
        match message:
            case AIMessage():
                for call in message.tool_calls:
                    if call["id"] in answered:
                        continue
                    await by.calls.complete(str(call["id"]), call["name"], call["args"])
            case ToolMessage():
                await self._answer(place, by, message)
            case _:
                pass

    async def _answer(self, place: Place, by: Speaker, message: ToolMessage) -> None:
        result, failed = (
            to_jsonable_python(message.content, serialize_unknown=True),
            message.status == "error",
        )
        await self._agents.tool_ended(place, message.tool_call_id, failed=failed)
        if await by.calls.answer(message.tool_call_id, result, failed=failed) and message.id is not None:
            self._answered.add(message.id)

    async def _wrote(self, by: Speaker, data: Any) -> None:
        """Show what a node wrote as data: under its own `id` and `name`, if it has them."""
        self._written += 1
        value = to_jsonable_python(data, serialize_unknown=True)
        known: dict[str, Any] = value if isinstance(value, dict) else {}
        part_id = str(known.get("id") or f"written_{by.says.origin.segment}_{self._written}")
        await by.says.data(part_id, str(known.get("name") or known.get("type") or "custom"), value)


def _agent_of(metadata: dict[str, Any], namespace: Place) -> str | None:
    return metadata.get("lc_agent_name") if namespace else None


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
