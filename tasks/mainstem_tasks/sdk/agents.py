"""A sub-agent emits into its run, apart from the root and other agents: `async with run.agent(…) as sub`.

What it says is a part of its own, replaced in its place as it grows: parallel agents never mix, and the run's
`text` is the root's. Its steps, tool calls, usage and approvals name it, and the tool call that it works for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, NoReturn

from mainstem_shared import errors
from mainstem_shared.model import contents
from mainstem_shared.model.actions import Call
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.interrupts import Item
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.emitter import Emitter
from mainstem_tasks.sdk.pauses import Paused

NAME: Final = "agent"
"""The name of the data parts that show agents."""
SHOWN_LIMIT: Final = 60_000
"""Characters of each of an agent's texts that its part shows: the part must fit into an event."""
_FIRST: Final = 64  # characters after which a text is shown again; then whenever it is half as long again

Interrupt = Callable[..., Coroutine[Any, Any, NoReturn]]


class AgentChannel:
    """The way of one agent's events into the channel of its run."""

    def __init__(self, channel: Channel, *, agent_id: str, about: Mapping[str, Any]) -> None:
        self._channel = channel
        self._id = agent_id
        self._about = about
        self._said: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._length = 0
        self._shown = 0
        self._is_shown = True
        self.state = "running"

    @property
    def fold(self) -> Content:
        """The run's content so far."""
        return self._channel.fold

    def text(self, kind: Type, text: str) -> None:
        """Append to what the agent says; it is shown once enough is new."""
        self._texts.setdefault(contents.type_of_delta[kind], []).append(text)
        self._length += len(text)
        self._is_shown = False
        if self._length >= self._shown * 3 // 2 + _FIRST:
            self.show()

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        """Append any other event, as this agent's."""
        self.show()
        match kind:
            case Type.STEP_STARTED:
                self._channel.emit(kind, {**payload, **self._named()})
            case Type.PART:
                part = {**payload["part"], **self._named()}
                self._channel.emit(kind, {"part": {**part, "id": f"{self._id}:{part['id']}"}})
            case Type.OUTPUT:
                self._say("output", payload["value"])
            case Type.ANNOTATION:
                self._say("annotations", [*self._said.get("annotations", ()), payload["annotation"]])
            case Type.TITLE | Type.CONTEXT_USAGE:
                self._say(str(kind), payload.get("title", payload))
            case Type.CUSTOM if payload.get("name") == contents.FINISH:
                self._say(contents.FINISH, payload.get("data"))
            case _:
                self._channel.emit(kind, payload)

    def show(self, *, always: bool = False) -> None:
        """Bring the agent's part up to what it said."""
        if self._is_shown and not always:
            return
        self._shown, self._is_shown = self._length, True
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        shown = {name: text[:SHOWN_LIMIT] for name, text in texts.items()}
        cut = {"truncated": True} if shown != texts else {}
        value = {**self._about, "state": self.state, **shown, **cut, **self._said}
        self._channel.emit(
            Type.PART, {"part": {"type": "data", "id": self._id, "name": NAME, "value": value}}
        )

    def text_of(self, kind: str) -> str:
        """Return all that the agent said as `text`, `reasoning` or `refusal`."""
        return "".join(self._texts.get(kind, ()))

    def _say(self, name: str, value: Any) -> None:
        self._said[name] = value
        self._is_shown = False

    def _named(self) -> dict[str, Any]:
        named = {"agent": self._id, "parent": self._about.get("parent")}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def congested(self) -> bool:
        """Whether to wait (`drained`) before emitting more."""
        return self._channel.congested

    async def drained(self) -> None:
        """Wait until there is room again."""
        await self._channel.drained()

    async def flush(self) -> Cursor:
        """Wait until everything emitted is in the log; return the log's top."""
        self.show()
        return await self._channel.flush()


class SubAgent(Emitter):
    """An emitter of its own within a run: it asks with its name, and may have agents itself."""

    def __init__(
        self, root: Emitter, interrupt: Interrupt, *, agent_id: str, about: Mapping[str, Any]
    ) -> None:
        self.agent_id: Final = agent_id
        """The id of its part, and what its steps and calls name."""
        self._way = AgentChannel(root.origin.channel, agent_id=agent_id, about=about)
        mine = root.origin.provider_calls.of_agent(agent_id)
        super().__init__(self._way, replace(root.origin, provider_calls=mine))
        self._step_prefix = f"{agent_id}:"
        self._root = root
        self._interrupt = interrupt
        self.named: Final = {"agent": str(about["agent"]), "parent": about.get("parent")}
        """What its approvals say of it: its name, and the call that it works for."""

    @property
    def said(self) -> str:
        """All text that the agent emitted."""
        return self._way.text_of("text")

    def agent(self, name: str, *, parent: str | None = None) -> AgentEntry:
        """Let an agent of this agent emit. See `RunContext.agent`."""
        return AgentEntry(self._root, self._interrupt, name, parent=parent, within=self.agent_id)

    async def request_approval(self, calls: Iterable[Call | Mapping[str, Any]], **options: Any) -> NoReturn:
        """Pause the run until a human has decided about this agent's calls, as `RunContext` does."""
        asked = [call if isinstance(call, Call) else Call.model_validate(call) for call in calls]
        items = [
            Item(
                id=call.call_id,
                type="approval",
                value={"name": call.name, "arguments": call.arguments, **self.named},
                response_schema=call.arguments_schema,
                allowed_decisions=call.allowed_decisions,
                reason=call.reason,
            )
            for call in asked
        ]
        await self._interrupt(items, **options)
        raise Paused  # not reached

    async def end(self, state: str) -> None:
        """Show the agent's part for the last time."""
        self._way.state = state
        self._way.show(always=True)
        await self._emitted()


class AgentEntry:
    """What `run.agent(name)` returns: `async with` lets it emit, `await` only says who is at work."""

    def __init__(
        self,
        root: Emitter,
        interrupt: Interrupt,
        name: str,
        *,
        parent: str | None = None,
        within: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self._root = root
        self._interrupt = interrupt
        self._about = {
            key: value
            for key, value in (("agent", name), ("parent", parent), ("within", within))
            if value is not None
        }
        self._details = {**(details or {}), "name": name}
        self._sub: SubAgent | None = None

    def __await__(self) -> Generator[Any, None, None]:
        """State which agent is at work now."""
        return self._root.agent_at_work(self._details).__await__()

    async def __aenter__(self) -> SubAgent:
        sub = self._sub = SubAgent(
            self._root, self._interrupt, agent_id=self._root.new_agent_id(), about=self._about
        )
        await sub.end("running")
        return sub

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sub = self._sub
        assert sub is not None
        if error is None:
            await sub.end("completed")
            return
        with contextlib.suppress(errors.MainstemError):  # the block's own failure is the one to see
            await sub.end(_state_after(error))


def _state_after(error: BaseException) -> str:
    match error:
        case Paused():
            return "paused"  # what it says later is another part
        case asyncio.CancelledError():
            return "aborted"
        case _:
            return "failed"
