"""Follows a graph's model calls: each is reserved in the run's budgets, counts in its usage, and is shown.

Nodes that are plain functions call their models from threads, where LangChain would run an asynchronous
handler on a loop of its own and swallow what it raises: those calls are brought to the run's loop.
"""

# what models say of themselves comes in dictionaries: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langgraph.constants import TAG_NOSTREAM
from langgraph.pregel._messages import StreamMessagesHandler, graph_namespace

from mainstem_tasks.engines.frameworks.agents import Place, ToolAgents
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput, model_call
from mainstem_tasks.engines.langgraph.streaming import Streaming, texts_of
from mainstem_tasks.sdk.provider_calls import ProviderCall

Hook = Callable[..., Any]


class NodeMessages(StreamMessagesHandler):
    """LangGraph's own handler for messages that nodes return; those of models are not its business.

    `seen`: ids of messages that were shown, or that nodes were given.
    """

    ignore_llm = ignore_chat_model = True  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, streaming: Streaming) -> None:
        super().__init__(streaming.put, subgraphs=True)


@dataclass(slots=True, kw_only=True)
class _ModelCall:
    """A call under way. `namespace`: of the graph that made it; None if its answer is not to be shown."""

    namespace: Place | None
    metadata: dict[str, Any]
    output: ModelOutput
    stack: AsyncExitStack
    call: ProviderCall


class Following(AsyncCallbackHandler):
    """One segment's view of its graph's model calls, those of subgraphs and of agents in tools too.

    One handler for both worlds, since LangChain asks each handler about each piece of an answer: on the run's
    loop the hooks are coroutines, in other threads plain functions that wait for the loop.
    """

    raise_error = True
    """A budget without room ends the run."""
    ignore_chain = ignore_retriever = ignore_retry = ignore_custom_event = True  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __init__(self, agents: ToolAgents, streaming: Streaming, shown: NodeMessages) -> None:
        super().__init__()
        self._agents = agents
        self._streaming = streaming
        self._shown = shown.seen
        self._open: dict[UUID, _ModelCall] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def run_inline(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether LangChain makes no task for what it tells: none for each piece of an answer.

        Not for the beginning of a call, which may be refused: LangChain forgets its other handlers then.
        """
        return bool(self._open)

    @property
    def on_llm_new_token(self) -> Hook:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What takes a piece of an answer."""
        return self._here(self._piece)

    @property
    def on_chat_model_start(self) -> Hook:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What takes the beginning of a call."""
        return self._here(self._start)

    @property
    def on_llm_end(self) -> Hook:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What takes the end of a call."""
        return self._here(self._finish)

    @property
    def on_llm_error(self) -> Hook:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What takes the failure of a call."""
        return self._here(self._fail)

    def _here(self, hook: Hook) -> Hook:
        """Return a hook as this thread may call it."""
        if threading.get_ident() == self._thread:
            return hook

        def wait(*given: Any, **named: Any) -> None:
            asyncio.run_coroutine_threadsafe(hook(*given, **named), self._loop).result()

        return wait

    async def _start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - as the hook is called
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Reserve what the call may cost."""
        known, given = metadata or {}, kwargs.get("invocation_params") or {}
        output, stack = ModelOutput(), AsyncExitStack()
        by = await self._agents.at(_place(known)[:-1], name=known.get("lc_agent_name"))
        opened = model_call(
            by.says,
            output,
            model=str(
                given.get("model") or given.get("model_name") or known.get("ls_model_name") or "unknown"
            ),
            provider=known.get("ls_provider"),
            request="\n".join(str(message.content) for batch in messages for message in batch),
            max_output_tokens=known.get("ls_max_tokens"),
        )
        self._open[run_id] = _ModelCall(
            namespace=_shown_in(known, tags or ()),
            metadata=known,
            output=output,
            stack=stack,
            call=await stack.enter_async_context(opened),
        )

    async def _piece(
        self,
        token: str,  # noqa: ARG002 - as the hook is called
        *,
        chunk: Any = None,
        run_id: UUID,
        **_: Any,
    ) -> None:
        """Show a piece of an answer; its words are noted, for an estimate if nobody counts them."""
        call = self._open.get(run_id)
        if call is None or not isinstance(chunk, ChatGenerationChunk):
            return
        message = chunk.message
        for text in texts_of(message):
            call.output.take(text)
        if call.namespace is not None:
            if message.id is not None:
                self._shown.add(message.id)
            await self._streaming.message(call.namespace, call.metadata, message)

    async def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,  # noqa: ARG002 - as the hook is called
        *,
        metadata: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **_: Any,
    ) -> None:
        """Note where the tool works: a graph that it runs there is an agent of its own."""
        if tool_call_id is not None:
            name = str((serialized or {}).get("name") or "tool")
            self._agents.tool_began(_place(metadata or {}), tool_call_id, name)

    async def _finish(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Show the answer of a model that does not stream, and report what the call used."""
        call = self._open.pop(run_id, None)
        if call is None:
            return
        async with call.stack:  # what cannot be shown was paid for all the same
            used = _usage_of(response)
            if used is not None:
                await _report(call.call, used)
            message = next(_messages_of(response), None)
            if message is not None and call.namespace is not None and message.id not in self._shown:
                message.id = message.id or str(uuid4())  # its node returns it, too
                self._shown.add(message.id)
                await self._streaming.message(call.namespace, call.metadata, message)

    async def _fail(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """End the call with its failure: what was said before costs all the same."""
        call = self._open.pop(run_id, None)
        if call is not None:
            await _end(call.stack, error)

    async def close(self) -> None:
        """End the calls that are under way, with the failure that is being handled, if there is one."""
        while self._open:
            _, call = self._open.popitem()
            await _end(call.stack, sys.exc_info()[1])


async def _end(stack: AsyncExitStack, error: BaseException | None) -> None:
    """Leave a call's block as its failure would; the failure itself goes its own way."""
    try:
        await stack.__aexit__(*((type(error), error, error.__traceback__) if error else (None, None, None)))
    except BaseException as raised:
        if raised is not error:
            raise


def _place(metadata: dict[str, Any]) -> Place:
    """Return the path of the task that a callback is about, from what LangGraph joins it to."""
    return tuple(filter(None, str(metadata.get("langgraph_checkpoint_ns") or "").split("|")))


def _shown_in(metadata: dict[str, Any], tags: Collection[str]) -> Place | None:
    """Return the namespace of the graph that shows a model's answer; None if nobody is to see it."""
    if "langgraph_checkpoint_ns" not in metadata or TAG_NOSTREAM in tags:
        return None
    return graph_namespace(metadata)


def _messages_of(response: LLMResult) -> Iterator[AIMessage]:
    for generations in response.generations:
        for generation in generations:
            message = getattr(generation, "message", None)
            if isinstance(message, AIMessage):
                yield message


def _usage_of(response: LLMResult) -> dict[str, Any] | None:
    counted = (message.usage_metadata for message in _messages_of(response) if message.usage_metadata)
    return next((dict(usage) for usage in counted), None)


async def _report(call: ProviderCall, used: dict[str, Any]) -> None:
    read, said = used.get("input_token_details") or {}, used.get("output_token_details") or {}
    await call.used(
        input_tokens=used["input_tokens"],
        output_tokens=used["output_tokens"],
        cached_input_tokens=read.get("cache_read") or 0,
        cache_write_tokens=read.get("cache_creation") or 0,
        reasoning_tokens=said.get("reasoning") or 0,
        audio_input_tokens=read.get("audio") or 0,
        audio_output_tokens=said.get("audio") or 0,
    )
