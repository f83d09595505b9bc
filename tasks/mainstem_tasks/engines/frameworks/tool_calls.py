"""Carries a framework's tool calls into the run, each under an id that is unique there.

Some providers number the calls of every answer anew. What the framework calls `call_0` a second time gets an
id of its own in the run; a framework is only ever told its own ids.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_tasks.sdk.agents import SubAgent
from mainstem_tasks.sdk.emitter import Emitter

ID_LIMIT: Final = 128
"""Characters of a call's id; a longer one is replaced."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """The calls of a run and of its agents. Keys are the framework's ids, an agent's after its scope."""

    open: dict[str, str] = field(default_factory=dict[str, str])
    used: set[str] = field(default_factory=set[str])
    whole: set[str] = field(default_factory=set[str])
    made: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict[str, tuple[str, dict[str, Any]]])
    """With what open calls of this segment are made: the tool, and its arguments."""
    agents: dict[str, SubAgent] = field(default_factory=dict[str, SubAgent])
    """The agents whose calls of this segment are no root's, by the run's ids."""


class ToolCalls:
    """The calls of one run. `opened`: those that an earlier segment left open, by the framework's ids."""

    def __init__(
        self, caller: Emitter, *, opened: Mapping[str, str] | None = None, used: Iterable[str] = ()
    ) -> None:
        left = dict(opened or {})
        self._caller = caller
        self._scope = ""
        self._known = _Known(open=left, used={*used, *left.values()}, whole=set(left))

    def of_agent(self, agent: Emitter, scope: str) -> ToolCalls:
        """Return what carries an agent's calls: their ids may be those of others', `scope` is its own."""
        calls = ToolCalls(agent)
        calls._scope, calls._known = f"{scope}/", self._known
        return calls

    @property
    def opened(self) -> dict[str, str]:
        """The calls that wait for a result, agents' with their scope: the framework's ids, and the run's."""
        return dict(self._known.open)

    @property
    def used(self) -> list[str]:
        """The ids that a call of the run has, or had."""
        return sorted(self._known.used)

    def id_of(self, theirs: str) -> str:
        """Return the run's id of a call that waits for a result."""
        return self._known.open[self._scope + theirs]

    def id_if_open(self, theirs: str) -> str:
        """Return the run's id of a call, or the framework's if it does not wait for a result."""
        return self._known.open.get(self._scope + theirs, theirs)

    def asker(self, ours: str) -> Mapping[str, Any]:
        """Return what an approval of a call says of the agent that asks; nothing if the root does."""
        agent = self._known.agents.get(ours)
        return {} if agent is None else agent.named

    def find(
        self, name: str, arguments: Mapping[str, Any], *, but: Collection[str], theirs: str | None = None
    ) -> str | None:
        """Return the run's id of an open call that is made so, of any agent and not one of `but`.

        `theirs`: the framework's id of it, which several agents may use.
        """
        made = (
            key
            for key, one in self._known.made.items()
            if one == (name, arguments) and theirs in (None, key, key.rpartition("/")[2])
        )
        return next((ours for key in made if (ours := self._known.open[key]) not in but), None)

    async def begin(self, theirs: str, name: str) -> None:
        """State that a call begins whose arguments are still streaming."""
        if self._scope + theirs not in self._known.open:
            await self._caller.tool_call_start(self._named(theirs), name)

    async def grow(self, theirs: str, arguments: str) -> None:
        """Append to a call's streaming arguments."""
        key = self._scope + theirs
        if key in self._known.open and key not in self._known.whole:
            await self._caller.tool_call_delta(self._known.open[key], arguments)

    async def complete(self, theirs: str, name: str, arguments: Mapping[str, Any]) -> None:
        """State a call's arguments, once; the log knows them when this returns, so that the tool may run."""
        if self._scope + theirs not in self._known.whole:
            await self.edit(theirs, name, arguments)

    async def edit(self, theirs: str, name: str, arguments: Mapping[str, Any]) -> None:
        """State what a call is made with, whatever was stated before: a human may have decided otherwise."""
        key = self._scope + theirs
        ours = self._known.open[key] if key in self._known.open else self._named(theirs)
        self._known.whole.add(key)
        self._known.made[key] = (name, dict(arguments))
        await self._caller.tool_call(ours, name, arguments)

    async def answer(self, theirs: str, result: Any, *, failed: bool = False) -> bool:
        """Answer a call; False if it is unknown, or has its result already: it is none of the run's."""
        key = self._scope + theirs
        ours = self._known.open.pop(key, None)
        self._known.whole.discard(key)
        self._known.made.pop(key, None)
        if ours is not None:
            await self._caller.tool_result(ours, result, failed=failed)
        return ours is not None

    def _named(self, theirs: str) -> str:
        fits = 0 < len(theirs) <= ID_LIMIT and theirs.isprintable() and theirs not in self._known.used
        ours = theirs if fits else f"call_{secrets.token_hex(8)}"
        self._known.used.add(ours)
        self._known.open[self._scope + theirs] = ours
        if isinstance(self._caller, SubAgent):
            self._known.agents[ours] = self._caller
        return ours
