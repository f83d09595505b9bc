"""Maps agents that run inside tools to sub-agents of the run, one for each tool call.

A framework says where a tool works (its *place*, a path of names) and where an event came from. What happens
below a tool's place is its agent's; everything else is the run's own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.sdk.agents import AgentEntry, SubAgent
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.pauses import Paused

Place = tuple[str, ...]


class ToolFailed(Exception):
    """Ends an agent whose tool failed."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """One agent's emitter and tool calls: the run's own agent, or one inside a tool."""

    says: RunContext[Any] | SubAgent
    calls: ToolCalls


@dataclass(slots=True, kw_only=True)
class _Tool:
    """A tool at work. `call_id` is the framework's; None if several calls share the place."""

    call_id: str | None
    name: str
    entry: AgentEntry | None = None
    agent: Speaker | None = None


class ToolAgents:
    """The agents of one segment, by the places of the tools that let them work."""

    def __init__(self, run: RunContext[Any], calls: ToolCalls) -> None:
        self._root = Speaker(run, calls)
        self._tools: dict[Place, _Tool] = {}

    @property
    def only(self) -> Speaker | None:
        """The run's own agent as long as no tool is at work: all that is said is its."""
        return None if self._tools else self._root

    def tool_began(self, place: Place, call_id: str, name: str) -> None:
        """Note where a tool works: an agent may work below that place from now on."""
        known = self._tools.get(place)
        if known is None:
            self._tools[place] = _Tool(call_id=call_id, name=name)
        elif known.call_id != call_id:
            known.call_id = None  # whose agent it is cannot be told

    async def at(self, place: Place, *, name: str | None = None) -> Speaker:
        """Return who says what comes from a place; an agent begins with the first thing that it says.

        `name` is the agent's own, if it has one; else it is called as its tool is.
        """
        speaker = self._root
        for length in range(1, len(place) + 1):
            tool = self._tools.get(place[:length])
            if tool is not None:
                given = name if length == len(place) else None
                speaker = tool.agent or await self._begin(place[:length], tool, speaker, given)
        return speaker

    async def _begin(self, place: Place, tool: _Tool, caller: Speaker, name: str | None) -> Speaker:
        parent = None if tool.call_id is None else caller.calls.id_if_open(tool.call_id)
        tool.entry = caller.says.agent(name or tool.name, parent=parent)
        agent = await tool.entry.__aenter__()
        tool.agent = Speaker(agent, self._root.calls.of_agent(agent, "|".join(place)))
        return tool.agent

    async def tool_ended(self, caller: Place, call_id: str, *, failed: bool = False) -> None:
        """End the agent that worked for a call of the caller at a place."""
        for place, tool in list(self._tools.items()):
            if place[:-1] == caller and tool.call_id == call_id:
                await self._end(place, ToolFailed() if failed else None)

    async def close(self) -> None:
        """End all agents, with the failure that is being handled; if there is none, somebody was asked."""
        error = sys.exc_info()[1] or Paused()
        for place in sorted(self._tools, key=len, reverse=True):  # agents of agents first
            await self._end(place, error)

    async def _end(self, place: Place, error: BaseException | None) -> None:
        tool = self._tools.pop(place)
        if tool.entry is not None:
            await tool.entry.__aexit__(
                type(error) if error else None, error, error.__traceback__ if error else None
            )
