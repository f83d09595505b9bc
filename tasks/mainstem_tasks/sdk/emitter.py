"""`Emitter` takes the events that an engine emits: text, parts, tool calls, steps, usage.

Every `await` here is usually over at once: events are buffered and written in groups. It waits when the
buffer is full, which is how the store slows an engine down.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from typing_extensions import Unpack

from mainstem_shared import errors
from mainstem_shared.blobs.files import Files
from mainstem_shared.model import contents, digests, events, ids, jsontext, messages, transcripts
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import ms_of
from mainstem_shared.model.time import now_ms
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.pauses import Paused
from mainstem_tasks.sdk.provider_calls import ProviderCall, ProviderCalls, Used

RESULT_LIMIT: Final = events.EVENT_LIMIT - 4096
"""A larger result of a tool goes to a file beside the run; its event holds the rest."""
CALL_ID_LIMIT: Final = 120
"""Characters of a tool call's id; a longer one of a provider is replaced by its digest."""
_SHOWN_OF_RESULT: Final = 2000  # characters of such a result that readers see at once

_MESSAGE: Final = Type.MESSAGE_DELTA  # looking a member up costs as much as a step of a token's way
_YIELD_EVERY: Final = 32
"""Events after which other runs have their turn: half a millisecond of an engine that never waits."""


class KnownCalls:
    """The tool calls of a run, whoever makes them. The channel's fold lags behind what was emitted."""

    def __init__(self, fold: Content) -> None:
        open_calls = frozenset(fold.open_calls)
        started = {step["step_id"]: ms_of(step["started_at"]) for step in fold.steps}
        self.open: dict[str, int] = {call_id: at for call_id, at in started.items() if call_id in open_calls}
        """When each call began that has no result yet."""
        self.answered: set[str] = set(fold.calls) - open_calls
        self.ids: set[str] = set(fold.calls)
        self.working: set[str] = set()
        """Tool calls, steps and blocks that are under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What all emitters of one segment share."""

    channel: Channel
    run_id: str
    segment: int
    files: Files | None
    provider_calls: ProviderCalls
    calls: KnownCalls

    @classmethod
    def of(
        cls,
        channel: Channel,
        *,
        run_id: str,
        segment: int,
        files: Files | None,
        provider_calls: ProviderCalls,
    ) -> Self:
        """Return what the emitters of a segment share that begins."""
        return cls(
            channel=channel,
            run_id=run_id,
            segment=segment,
            files=files,
            provider_calls=provider_calls,
            calls=KnownCalls(channel.fold),
        )


class Emitter:
    """Emits into a run's log. Safe to use from all tasks the engine starts.

    Every method may raise `Fenced` or `ChannelClosed` (this segment has lost the run: let it propagate),
    `EventTooLarge` (over 256 KB) and `ContentTooLarge` (over 8 MB in total).
    """

    def __init__(self, channel: Channel, origin: Origin) -> None:
        self.origin: Final[Origin] = origin
        """What all emitters of the run share."""
        self._channel = channel
        self._known = origin.calls
        self._turn = 0
        self._steps = self._agents = 0
        self._step_prefix = ""

    # -- text

    async def text(self, text: str) -> None:
        """Append to the answer."""
        channel = self._channel
        channel.text(_MESSAGE, text)
        self._turn += 1  # `_emitted`, without a coroutine per token
        if channel.congested or self._turn % _YIELD_EVERY == 0:
            await self._give_way()

    async def reasoning(self, text: str) -> None:
        """Append to the model's visible reasoning."""
        self._channel.text(Type.REASONING_DELTA, text)
        await self._emitted()

    async def refusal(self, text: str) -> None:
        """Append to the model's refusal to answer: a part of its own, no part of the run's `text`."""
        self._channel.text(Type.REFUSAL_DELTA, text)
        await self._emitted()

    async def annotate(self, annotation: Mapping[str, Any]) -> None:
        """Note something about the last text, such as a citation: `{"type": "url_citation", "url", …}`."""
        await self._emit(Type.ANNOTATION, {"annotation": dict(annotation)})

    # -- parts that come whole

    async def data(self, id: str, name: str, value: Any) -> None:  # noqa: A002 - what it is called everywhere
        """Show a value of your own, which stays in the content; the same `id` replaces it in its place."""
        await self._part({"type": "data", "id": id, "name": name, "value": value})

    async def source(
        self,
        url: str | None = None,
        *,
        id: str | None = None,  # noqa: A002
        title: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Name a source of the answer: a page (`url`), or a document (`title` and `media_type`).

        Raises:
            ValueError: it has neither `url` nor `title`.
        """
        if not url and not title:
            raise ValueError("a source needs a url, or a title")
        named = {"url": url, "title": title, "media_type": media_type}
        given = {name: value for name, value in named.items() if value is not None}
        await self._part({"type": "source", "id": id or url or str(title), **given})

    async def file(
        self,
        data: bytes,
        media_type: str,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Show a file, which lies beside the run as long as the run is kept; the same `id` replaces it.

        Raises:
            BlobTooLarge: it is over MAINSTEM_BLOB_MAX_MB.
        """
        if self.origin.files is None:
            raise RuntimeError("This segment has nowhere to put files.")
        blob = await self.origin.files.put(self.origin.run_id, data, media_type)
        named = {} if name is None else {"name": name}
        await self._part({"id": id or blob.digest, **messages.blob_part(blob), **named})

    async def _part(self, part: dict[str, Any]) -> None:
        await self._emit(Type.PART, {"part": part})

    async def output(self, value: Any) -> None:
        """Give the run its structured result, anything that JSON can hold; the latest one counts.

        What an engine returns is its output, unless it returns nothing.
        """
        await self._emit(Type.OUTPUT, {"value": value})

    # -- tools and steps

    async def tool_call(self, call_id: str, name: str, arguments: Mapping[str, Any]) -> None:
        """State that a tool is called, with its complete arguments; the log knows when this returns.

        After `tool_call_start` with the same id this replaces the streamed text by the parsed arguments.

        Raises:
            ValueError: the call has its result already; each call needs an id of its own.
        """
        await self._call_started(call_id, name, dict(arguments))
        self._known.working.add(call_id)
        await self._channel.flush()

    async def tool_call_start(self, call_id: str, name: str) -> None:
        """State that a tool call begins whose arguments are still streaming.

        Raises:
            ValueError: the call has its result already; each call needs an id of its own.
        """
        await self._call_started(call_id, name, "")

    async def tool_call_delta(self, call_id: str, arguments: str) -> None:
        """Append to the streaming arguments of a tool call.

        Raises:
            ValueError: no such call is open.
        """
        self._require_open(call_id)
        if arguments:
            await self._emit(Type.STEP_DELTA, {"step_id": call_id, "arguments": arguments})

    async def tool_result(self, call_id: str, result: Any, *, failed: bool = False) -> None:
        """Answer a tool call; `result` is anything JSON can hold.

        Raises:
            ValueError: no such call is open.
        """
        self._require_open(call_id)
        result = await self._in_bounds(result)
        state = "failed" if failed else "completed"
        self._channel.emit(Type.STEP_COMPLETED, _completed(call_id, state, result))
        del self._known.open[call_id]
        self._known.working.discard(call_id)
        self._known.answered.add(call_id)
        await self._emitted()

    def call_id(self, raw: str) -> str:
        """Return an id for a new tool call that no other call of the run has: the raw one, if it is free.

        Some providers number the calls of each answer anew, some give none at all.
        """
        wanted = raw if len(raw) <= CALL_ID_LIMIT else f"call_{digests.hex_digest(raw.encode())}"
        found, number = wanted or f"call_{ids.token()}", 1
        while found in self._known.ids:
            number += 1
            found = f"{wanted}_{number}"
        self._known.ids.add(found)
        return found

    @property
    def working(self) -> bool:
        """Whether a tool or a step is under way: its silence is not the engine's."""
        return bool(self._known.working)

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """Count as at work while the block runs, however long it emits nothing."""
        block = ids.token()
        self._known.working.add(block)
        try:
            yield
        finally:
            self._known.working.discard(block)

    async def _in_bounds(self, result: Any) -> Any:
        """Return a result, or for one that no event can hold where it lies, and how it begins."""
        if self.origin.files is None or len(data := jsontext.dumps(result)) <= RESULT_LIMIT:
            return result
        blob = await self.origin.files.put(self.origin.run_id, data, "application/json")
        shown = transcripts.json_text(result)[:_SHOWN_OF_RESULT]
        return {"beginning": shown, "file": messages.blob_part(blob)}

    async def _call_started(self, call_id: str, name: str, arguments: dict[str, Any] | str) -> None:
        if call_id in self._known.answered:
            raise ValueError(f"Tool call {call_id!r} has its result already; give each call its own id.")
        at = self._known.open.get(call_id, now_ms())
        self._channel.emit(
            Type.STEP_STARTED,
            {"step_id": call_id, "kind": "tool_call", "name": name, "arguments": arguments, "at": at},
        )
        self._known.open[call_id] = at
        self._known.ids.add(call_id)
        await self._emitted()

    def _require_open(self, call_id: str) -> None:
        if call_id not in self._known.open:
            raise ValueError(f"No tool call {call_id!r} is open; start it with tool_call or tool_call_start.")

    @contextlib.asynccontextmanager
    async def step(self, name: str) -> AsyncGenerator[str]:
        """Show a named step while the block runs; it ends as the block does. Yields its id."""
        self._steps += 1
        step_id = f"{self._step_prefix}step_{self.origin.segment}_{self._steps}"
        await self._emit(
            Type.STEP_STARTED, {"step_id": step_id, "kind": "step", "name": name, "at": now_ms()}
        )
        try:
            with self.busy():
                yield step_id
        except BaseException as error:
            stopped = isinstance(error, asyncio.CancelledError | Paused)
            state = "aborted" if stopped else "failed"
            with contextlib.suppress(errors.MainstemError):  # the block's own failure is the one to see
                self._channel.emit(Type.STEP_COMPLETED, _completed(step_id, state, None))
            raise
        await self._emit(Type.STEP_COMPLETED, _completed(step_id, "completed", None))

    # -- about the run

    async def title(self, title: str) -> None:
        """Name the conversation."""
        await self._emit(Type.TITLE, {"title": title})

    async def usage(self, **used: Unpack[Used]) -> None:
        """Add one provider call's tokens to the run's usage, and its cost if its `model` has a price.

        Cached, written, reasoning and audio tokens are parts of input and output, `total_tokens` their sum
        unless given. `estimated`: the provider did not count (all of) them.

        Raises:
            ValueError: a count is negative, or no whole number.
        """
        self.origin.provider_calls.charge(self.origin.provider_calls.add(**used))
        await self._emitted()

    @contextlib.asynccontextmanager
    async def provider_call(
        self,
        *,
        model: str,
        provider: str | None = None,
        input_tokens: int = 0,
        max_output_tokens: int | None = None,
    ) -> AsyncGenerator[ProviderCall]:
        """Make one call of a provider in this block, inside the budgets of the run, its user and tenant.

        It begins when it is the call's turn (MAINSTEM_PROVIDER_LIMITS); `ProviderError(…, status=429,
        retry_after_s=…)` from the block, or an SDK's error with that header, lets no worker call until then.
        Tell what it used with `call.used(…)`; else it is charged as reserved, unless it was `not_made` or
        fails with ProviderError. Bound the answer to `call.max_output_tokens`.

        Raises:
            BudgetReached: a budget has no room for the most that this call may cost.
            UnknownPrice: a budget in dollars applies, and the model has no price.
            ProviderError: the provider wants to be left alone for longer than a call may wait.
        """
        call = self.origin.provider_calls.prepare(model, provider, max_output_tokens, emitted=self._emitted)
        calls = self.origin.provider_calls
        async with calls.making(call, input_tokens=input_tokens, waiting=self.busy):
            yield call

    async def context_usage(self, **snapshot: Any) -> None:
        """Show how full the model's context is; the latest snapshot stays."""
        await self._emit(Type.CONTEXT_USAGE, snapshot)

    async def agent_at_work(self, about: Mapping[str, Any]) -> None:
        """State which agent is at work now: its `name`, and whatever else there is to say."""
        await self._emit(Type.AGENT_UPDATED, dict(about))

    def new_agent_id(self) -> str:
        """Return an id for a sub-agent that no other one of the run has."""
        self._agents += 1
        return f"agent_{self.origin.segment}_{self._agents}"

    async def custom(self, name: str, data: Any = None, *, transient: bool = True) -> None:
        """Emit an event of your own for who reads now; with `transient=False` a `data` part, which stays."""
        if transient:
            await self._emit(Type.CUSTOM, {"name": name, "data": data})
        else:
            await self.data(f"{name}_{ids.token()}", name, data)

    async def finish_reason(self, reason: str) -> None:
        """Say why the model stopped, in its provider's word, such as `stop`, `length` or `tool_calls`."""
        await self.custom(contents.FINISH, {"finish_reason": reason})

    async def flush(self) -> Cursor:
        """Wait until everything emitted so far is durable; returns the cursor of the last event."""
        return await self._channel.flush()

    async def _emit(self, kind: Type, payload: dict[str, Any]) -> None:
        self._channel.emit(kind, payload)
        await self._emitted()

    async def _emitted(self) -> None:
        self._turn += 1
        if self._channel.congested or self._turn % _YIELD_EVERY == 0:
            await self._give_way()

    async def _give_way(self) -> None:
        if self._channel.congested:
            await self._channel.drained()
        if self._turn % _YIELD_EVERY == 0:
            await asyncio.sleep(0)


def _completed(step_id: str, state: str, result: Any) -> dict[str, Any]:
    return {"step_id": step_id, "state": state, "result": result, "at": now_ms()}
