"""Carries what a graph shows into the run: text, reasoning, tool calls and results, and what nodes write.

LangGraph would queue every piece of an answer for whoever reads its stream. Here a graph is run as if it were
below another one, whose stream is ours: it is handed everything at once and in order, and words of the run's
own agent, nearly all there is, go to the log from where the model says them.
"""

# messages hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_RUNTIME, CONFIG_KEY_STREAM
from langgraph.config import get_config
from langgraph.pregel.protocol import StreamChunk, StreamProtocol
from langgraph.runtime import DEFAULT_RUNTIME
from pydantic_core import to_jsonable_python

from mainstem_tasks.engines.frameworks.agents import Place, Speaker, ToolAgents


class Streaming:
    """One segment's stream on its way into the run, and what its tools' agents say into theirs."""

    def __init__(self, agents: ToolAgents) -> None:
        self._agents = agents
        self._items: deque[StreamChunk] = deque()
        """What was shown and is not emitted yet, in order."""
        self._some = asyncio.Event()
        self._emitting = asyncio.Lock()
        self._failure: Exception | None = None
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._streamed: dict[tuple[str | None, Any], str] = {}
        self._answered: set[str] = set()
        """Messages of tools by which a call got its result."""
        self._written = 0

    # -- what the graph shows

    def carried(self, config: RunnableConfig) -> RunnableConfig:
        """Return the configuration with which a graph, and all below it, hands what it shows to `put`."""

        def write(value: Any) -> None:
            below = str(get_config().get("configurable", {}).get("checkpoint_ns") or "")
            self.put((tuple(below.split("|")[:-1]), "custom", value))

        ours = {
            CONFIG_KEY_STREAM: StreamProtocol(self.put, {"updates", "custom"}),
            CONFIG_KEY_RUNTIME: DEFAULT_RUNTIME.override(stream_writer=write),
        }
        return {**config, "configurable": {**config.get("configurable", {}), **ours}}

    def put(self, item: StreamChunk) -> None:
        """Take an item of the stream, from any thread; it is emitted after those before it."""
        self._items.append(item)
        if threading.get_ident() == self._thread:
            self._some.set()
        else:
            self._loop.call_soon_threadsafe(self._some.set)

    async def message(self, namespace: Place, metadata: dict[str, Any], message: BaseMessage) -> None:
        """Emit a message, or a piece of one, before whoever says it goes on; what fails ends the graph."""
        try:
            by = self._agents.only
            if by is not None and not self._items and (words := _only_words(message)):
                await by.says.text(words)
            else:
                self.put((namespace, "messages", (message, metadata)))
                await self.drain()
        except Exception as error:
            self._failure = error  # also if the node survives it: another model may be its fallback
            self._some.set()
            raise

    @asynccontextmanager
    async def followed(self) -> AsyncGenerator[None]:
        """Emit in the block what nobody waits for. A failure ends the block, and is raised by it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                yield
                self._is_over = True
                self._some.set()
        except BaseExceptionGroup as failures:
            failure = failures.exceptions[0]
            if self._failure is None:
                await self.drain()  # what was shown before
            raise failure from failure.__cause__

    async def _follow(self) -> None:
        while not (self._is_over and self._failure is None):
            await self._some.wait()
            self._some.clear()
            if self._failure is not None:
                raise self._failure
            await self.drain()

    async def drain(self) -> None:
        """Emit what was shown so far."""
        async with self._emitting:
            while self._items:
                await self._take(*self._items.popleft())

    async def _take(self, namespace: Place, mode: str, data: Any) -> None:
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
            case AIMessage():  # its model does not stream
                await self._content(by, message)
            case ToolMessage():
                await self._answer(place, by, message)
            case _:
                pass

    async def _chunk(self, by: Speaker, chunk: AIMessageChunk) -> None:
        if chunk.content or chunk.additional_kwargs:
            await self._content(by, chunk)
        for piece in chunk.tool_call_chunks:
            place = (chunk.id, piece.get("index"))
            if place not in self._streamed and (call_id := piece.get("id")):
                self._streamed[place] = call_id
                await by.calls.begin(call_id, piece.get("name") or "")
            if (text := piece.get("args")) and place in self._streamed:
                await by.calls.grow(self._streamed[place], text)

    async def _content(self, by: Speaker, message: AIMessage) -> None:
        thought = message.additional_kwargs.get("reasoning_content")
        if isinstance(thought, str) and thought:
            await by.says.reasoning(thought)
        blocks = [message.content] if isinstance(message.content, str) else message.content
        for block in blocks:
            match block:
                case str() if block:
                    await by.says.text(block)
                case {"type": "text", "text": str() as text}:
                    await by.says.text(text)
                case {"type": "reasoning" | "thinking", **rest}:
                    await by.says.reasoning(_reasoning(rest))
                case _:
                    pass

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


def texts_of(message: BaseMessage) -> Iterator[str]:
    """Yield all that a model said in a message or a piece of one: words, thoughts, arguments of calls."""
    blocks = [message.content] if isinstance(message.content, str) else message.content
    for block in blocks:
        match block:
            case str():
                yield block
            case {"type": "text", "text": str() as text}:
                yield text
            case {"type": "reasoning" | "thinking", **rest}:
                yield _reasoning(rest)
            case _:
                pass
    if isinstance(thought := message.additional_kwargs.get("reasoning_content"), str):
        yield thought
    if isinstance(message, AIMessageChunk):
        for piece in message.tool_call_chunks:
            yield piece.get("args") or ""


def _only_words(message: BaseMessage) -> str:
    """Return the words of a piece that is nothing else; else nothing."""
    words = message.content
    if not isinstance(message, AIMessageChunk) or not isinstance(words, str):
        return ""
    return "" if message.additional_kwargs or message.tool_call_chunks else words


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
