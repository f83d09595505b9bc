"""`RunContext`: what an engine sees of its run, and how it emits.

Every `await` here is usually over at once: events are buffered and written in groups. It waits when the
buffer is full, which is how the store slows an engine down.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

from mainstem_shared import jsontext
from mainstem_shared.cursors import Cursor
from mainstem_shared.events import Type
from mainstem_shared.folds import Fold
from mainstem_shared.models import Usage

if TYPE_CHECKING:
    from mainstem_shared.verbs import Claimed
    from mainstem_tasks.registry import Engine


class Channel(Protocol):
    """The way into a run's log: `mainstem_shared.channels.Channel`, or a test's list."""

    fold: Fold

    def text(self, kind: Type, text: str) -> None: ...
    def emit(self, kind: str, payload: dict[str, Any]) -> None: ...
    @property
    def congested(self) -> bool: ...
    async def drained(self) -> None: ...
    async def flush(self) -> Cursor: ...


class RunContext:
    """One segment of a run, as its engine sees it. Safe to use from all tasks the engine starts.

    Every emitting method may raise `Fenced` or `ChannelClosed` (the run is over for this segment: let it
    pass), `EventTooLarge` (over 256 KB) and `ContentTooLarge` (over 8 MB in total).
    """

    def __init__(
        self,
        *,
        run_id: str,
        thread_id: str,
        user_id: str,
        tenant: str,
        segment: int,
        metadata: dict[str, Any],
        input: Any,  # noqa: A002 - the name engines use
        channel: Channel,
    ) -> None:
        self.run_id = run_id
        """The run's id."""
        self.thread_id = thread_id
        """The conversation the run belongs to."""
        self.user_id = user_id
        """Whose run it is."""
        self.tenant = tenant
        """The tenant of that user."""
        self.segment = segment
        """1 at the start, one more with each continuation."""
        self.metadata = metadata
        """What the caller attached to the run."""
        self.input = input
        """The validated input: the engine's input model, or a mapping if it has none."""
        self._channel = channel
        self._usage = Usage()

    @classmethod
    def of(cls, claimed: Claimed, channel: Channel, engine: Engine) -> RunContext:
        """Return the context of a claimed run.

        Raises:
            InvalidInput: the engine's model refuses the run's input.
        """
        spec = claimed.spec
        return cls(
            run_id=spec.run_id,
            thread_id=spec.thread_id,
            user_id=spec.user_id,
            tenant=spec.tenant,
            segment=claimed.segment,
            metadata=spec.metadata,
            input=engine.parse(claimed.input),
            channel=channel,
        )

    # -- text

    async def text(self, text: str) -> None:
        """Append to the answer."""
        self._channel.text(Type.MESSAGE_DELTA, text)
        if self._channel.congested:
            await self._channel.drained()

    async def reasoning(self, text: str) -> None:
        """Append to the model's visible reasoning."""
        self._channel.text(Type.REASONING_DELTA, text)
        if self._channel.congested:
            await self._channel.drained()

    # -- tools and steps

    async def tool_call(self, call_id: str, name: str, arguments: dict[str, Any]) -> None:
        """State that a tool is called, with its complete arguments; the log knows before the tool runs.

        After `tool_call_start` with the same id this replaces the streamed text by the parsed arguments.
        """
        await self._emit(
            Type.STEP_STARTED,
            {"step_id": call_id, "kind": "tool_call", "name": name, "arguments": arguments, "at": _now_ms()},
        )
        await self._channel.flush()

    async def tool_call_start(self, call_id: str, name: str) -> None:
        """State that a tool call begins whose arguments are still streaming."""
        await self._emit(
            Type.STEP_STARTED,
            {"step_id": call_id, "kind": "tool_call", "name": name, "arguments": "", "at": _now_ms()},
        )

    async def tool_call_delta(self, call_id: str, arguments: str) -> None:
        """Append to the streaming arguments of a tool call."""
        await self._emit(Type.STEP_DELTA, {"step_id": call_id, "arguments": arguments})

    async def tool_result(self, call_id: str, result: Any, *, failed: bool = False) -> None:
        """Answer a tool call; `result` is anything JSON can hold."""
        await self._completed(call_id, "failed" if failed else "completed", result)

    @contextlib.asynccontextmanager
    async def step(self, name: str, *, step_id: str | None = None) -> AsyncGenerator[str]:
        """Show a named step while the block runs; it fails with the block."""
        step_id = step_id or f"step_{len(self._channel.fold.steps) + 1}_{name}"[:128]
        await self._emit(
            Type.STEP_STARTED, {"step_id": step_id, "kind": "step", "name": name, "at": _now_ms()}
        )
        try:
            yield step_id
        except BaseException:
            with contextlib.suppress(Exception):  # the block's own failure is the one to see
                await self._completed(step_id, "failed", None)
            raise
        await self._completed(step_id, "completed", None)

    async def _completed(self, step_id: str, state: str, result: Any) -> None:
        await self._emit(
            Type.STEP_COMPLETED, {"step_id": step_id, "state": state, "result": result, "at": _now_ms()}
        )

    # -- about the run

    async def title(self, title: str) -> None:
        """Name the conversation."""
        await self._emit(Type.TITLE, {"title": title})

    async def usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_input_tokens: int = 0,
        reasoning_tokens: int = 0,
    ) -> None:
        """Add one provider call's tokens to the run's usage.

        Cached tokens are part of the input tokens, reasoning tokens of the output tokens.
        """
        before = (
            Usage.model_validate(self._channel.fold.usage or {}) if self._usage == Usage() else self._usage
        )
        self._usage = Usage(
            input_tokens=before.input_tokens + input_tokens,
            output_tokens=before.output_tokens + output_tokens,
            total_tokens=before.total_tokens + input_tokens + output_tokens,
            cached_input_tokens=before.cached_input_tokens + cached_input_tokens,
            reasoning_tokens=before.reasoning_tokens + reasoning_tokens,
        )
        await self._emit(Type.USAGE, self._usage.model_dump())

    async def context_usage(self, **snapshot: Any) -> None:
        """Show how full the model's context is; the latest snapshot stays."""
        await self._emit(Type.CONTEXT_USAGE, snapshot)

    async def agent(self, name: str, **details: Any) -> None:
        """State which agent is at work now."""
        await self._emit(Type.AGENT_UPDATED, {"name": name, **details})

    async def custom(self, name: str, data: Any = None) -> None:
        """Emit an event of your own; readers that do not know it ignore it."""
        await self._emit(Type.CUSTOM, {"name": name, "data": data})

    async def flush(self) -> Cursor:
        """Wait until everything emitted so far is durable; returns the cursor of the last event."""
        return await self._channel.flush()

    def idempotency_key(self, call: str) -> str:
        """Return a key for a side effect that must happen once: the same in every segment of this run.

        Side effects cannot be fenced: give this key to the service that performs them.
        """
        named = jsontext.dumps([self.run_id, call])
        return f"ms_{hashlib.blake2b(named, digest_size=16).hexdigest()}"

    async def _emit(self, kind: Type, payload: dict[str, Any]) -> None:
        self._channel.emit(kind, payload)
        if self._channel.congested:
            await self._channel.drained()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
