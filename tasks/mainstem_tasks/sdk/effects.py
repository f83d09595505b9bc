"""`run.effect` performs a side effect, keeps its result, and returns the kept result to every repeat.

Before the effect its intent is durable, after it its result. A worker that dies in between leaves an intent
without a result: nobody knows whether it happened, and the engine has declared what to do then.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from mainstem_shared import errors
from mainstem_shared.model import digests, ids, jsontext
from mainstem_shared.model.actions import Decision
from mainstem_tasks.sdk import tool_threads
from mainstem_tasks.sdk.emitter import Origin

OnUnknown = Literal["retry", "ask", "fail"]
NoteEffect = Callable[[str, bytes, bool], Awaitable[bytes | None]]
"""Makes an entry about a key durable; returns an earlier one, unless it is to be replaced."""

Ask = Callable[[list[dict[str, Any]]], Awaitable[NoReturn]]
"""Asks people about items (`RunContext.interrupt`). Given with each call: nothing here holds the run."""

KEY_LIMIT: Final = 256
INLINE_LIMIT: Final = 64 * 1024
"""Bytes of JSON of a result; a larger one lies beside the run."""
HAPPENED: Final = "happened"
RETRY: Final = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an effect. `result` counts if it is `done`; else it is `begun`, here or elsewhere.

    `earlier`: it began before, and nobody knows what came of it; `asked`: people were asked about that.
    """

    done: bool = False
    result: Any = None
    earlier: bool = False
    asked: bool = False


class Effects:
    """One segment's effects: notes them, and finds those of earlier segments."""

    def __init__(
        self,
        note: NoteEffect,
        origin: Origin,
        *,
        decisions: Mapping[str, Decision],
    ) -> None:
        self._note = note
        self._decisions = decisions
        self._run_id = origin.run_id
        self._files = origin.files
        self._locks: dict[str, asyncio.Lock] = {}

    def alone(self, key: str) -> asyncio.Lock:
        """Return what lets one task at a time perform an effect."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def begin(self, key: str, *, on_unknown: OnUnknown, ask: Ask) -> Known:
        """Make the intent durable, or return what is known; it is to be performed unless `done`.

        Raises:
            EffectUnknown: it began before, nobody knows what came of it, and it must not be tried again.
            EffectsFull: the run has as many effects as it may.
            ValueError: the key is empty, or too long.
        """
        known = await self._begin(key)
        if not known.earlier or on_unknown == "retry":
            return known
        decided = self._decisions.get(asked_id(key))
        if on_unknown == "fail" or known.asked or (decided is not None and decided.type == "reject"):
            raise errors.EffectUnknown(key=key)
        if decided is None:
            return await ask([question(key)])
        if decided.value == HAPPENED:
            return Known(done=True, result=await self.end(key, None))
        await self._note(key, _intent(asked=True), True)
        return known

    async def _begin(self, key: str) -> Known:
        if not 0 < len(key.encode()) <= KEY_LIMIT:
            raise ValueError(f"the key of an effect has 1 to {KEY_LIMIT} bytes")
        stored = await self._note(key, _intent(asked=False), False)
        return Known() if stored is None else await self._read(jsontext.loads(stored))

    async def end(self, key: str, result: Any) -> Any:
        """Make the result durable; returns it as later segments get it: through JSON.

        Raises:
            ValueError: it is no JSON.
        """
        data = jsontext.dumps(result)
        jsontext.checked(data)
        entry: dict[str, Any] = {"result": result}
        if len(data) > INLINE_LIMIT and self._files is not None:
            blob = await self._files.put(self._run_id, data, "application/json")
            entry = {"file": blob.digest}
        await self._note(key, jsontext.dumps(entry), True)
        return jsontext.loads(data)

    async def _read(self, entry: dict[str, Any]) -> Known:
        if "file" in entry and self._files is not None:
            return Known(done=True, result=jsontext.loads(await self._files.get(self._run_id, entry["file"])))
        if "result" in entry:
            return Known(done=True, result=entry["result"])
        return Known(earlier=True, asked=entry.get("asked", False))


def forgetting() -> NoteEffect:
    """Return what notes effects in this process alone, for engines under test."""
    noted: dict[str, bytes] = {}

    async def note(key: str, entry: bytes, replace: bool) -> bytes | None:  # noqa: FBT001
        if key in noted and not replace:
            return noted[key]
        noted[key] = entry
        return None

    return note


async def perform(function: Callable[[str], Any], idempotency_key: str) -> Any:
    """Return what an effect's function returns: on the loop if it is `async def`, else from a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(idempotency_key)
    result = await tool_threads.run_in_thread(lambda: function(idempotency_key))
    return await result if inspect.isawaitable(result) else result


def question(key: str) -> dict[str, Any]:
    """Return the item that asks people about an effect whose outcome nobody knows."""
    text = f"A worker was lost while {key!r} was under way. Did it happen, or is it to be tried again?"
    answers = {"enum": [HAPPENED, RETRY]}
    value = {"text": text, "options": [HAPPENED, RETRY]}
    return {"id": asked_id(key), "type": "question", "value": value, "response_schema": answers}


def asked_id(key: str) -> str:
    """Return the id under which people decide about an effect."""
    named = f"effect:{key}"
    return named if len(named) <= 128 else f"effect:{digests.hex_digest(key.encode())}"


def _intent(*, asked: bool) -> bytes:
    return jsontext.dumps({"begun": ids.token(), **({"asked": True} if asked else {})})
