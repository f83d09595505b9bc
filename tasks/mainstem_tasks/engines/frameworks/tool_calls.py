"""Carries a framework's tool calls into the run, each under an id that is unique there.

Some providers number the calls of every answer anew. What the framework calls `call_0` a second time gets an
id of its own in the run; a framework is only ever told its own ids.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mainstem_tasks.sdk.context import RunContext

ID_LIMIT: Final = 128
"""Characters of a call's id; a longer one is replaced."""


class ToolCalls:
    """The calls of one run. `opened`: those that an earlier segment left open, by the framework's ids."""

    def __init__(
        self, run: RunContext[Any], *, opened: Mapping[str, str] | None = None, used: Iterable[str] = ()
    ) -> None:
        self._run = run
        self._open: dict[str, str] = dict(opened or {})
        self._used = {*used, *self._open.values()}
        self._whole = set(self._open)

    @property
    def opened(self) -> dict[str, str]:
        """The calls that wait for a result: the framework's ids, and the run's."""
        return dict(self._open)

    @property
    def used(self) -> list[str]:
        """The ids that a call of the run has, or had."""
        return sorted(self._used)

    def id_of(self, theirs: str) -> str:
        """Return the run's id of a call that waits for a result."""
        return self._open[theirs]

    async def begin(self, theirs: str, name: str) -> None:
        """State that a call begins whose arguments are still streaming."""
        if theirs not in self._open:
            await self._run.tool_call_start(self._named(theirs), name)

    async def grow(self, theirs: str, arguments: str) -> None:
        """Append to a call's streaming arguments."""
        if theirs in self._open and theirs not in self._whole:
            await self._run.tool_call_delta(self._open[theirs], arguments)

    async def complete(self, theirs: str, name: str, arguments: Mapping[str, Any]) -> None:
        """State a call's arguments, once; the log knows them when this returns, so that the tool may run."""
        if theirs not in self._whole:
            await self.edit(theirs, name, arguments)

    async def edit(self, theirs: str, name: str, arguments: Mapping[str, Any]) -> None:
        """State what a call is made with, whatever was stated before: a human may have decided otherwise."""
        ours = self._open[theirs] if theirs in self._open else self._named(theirs)
        self._whole.add(theirs)
        await self._run.tool_call(ours, name, arguments)

    async def answer(self, theirs: str, result: Any, *, failed: bool = False) -> None:
        """Answer a call; one that is unknown, or has its result already, is none of the run's."""
        ours = self._open.pop(theirs, None)
        self._whole.discard(theirs)
        if ours is not None:
            await self._run.tool_result(ours, result, failed=failed)

    def _named(self, theirs: str) -> str:
        fits = 0 < len(theirs) <= ID_LIMIT and theirs.isprintable() and theirs not in self._used
        ours = theirs if fits else f"call_{secrets.token_hex(8)}"
        self._used.add(ours)
        self._open[theirs] = ours
        return ours
