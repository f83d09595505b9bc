"""`RunContext` is what an `async def` engine does with its run: it emits, remembers, saves, and asks.

Emitting is in `emitter`, what engines can see in `run_view`. Plain `def` engines get the same from
`sync_context`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Generic, NoReturn

from mainstem_shared.blobs.files import Files
from mainstem_shared.model import transcripts
from mainstem_shared.model.actions import Call, Decision, OnExpiry, Question, Wait
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.interrupts import Item
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.messages import Message
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_tasks.sdk import effects, pauses
from mainstem_tasks.sdk.agents import AgentEntry
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.effects import Effects, NoteEffect, OnUnknown
from mainstem_tasks.sdk.emitter import Emitter, Origin
from mainstem_tasks.sdk.inboxes import Inbox
from mainstem_tasks.sdk.memory import Memory
from mainstem_tasks.sdk.pauses import Pause, Paused
from mainstem_tasks.sdk.provider_calls import Accounts, NoAccounts, ProviderCalls
from mainstem_tasks.sdk.run_view import InputT, RunView

SHORT_SLEEP_MS: Final = 1000
"""A sleep that is over sooner is slept in the worker: a pause costs more."""

SaveCheckpoint = Callable[[bytes, Cursor, Changes | None], Awaitable[bool]]
"""Stores an engine's state, with what changed in its memory and the cursor of the last event it covers.

False: the log does not reach that cursor any more, and nothing was stored.
"""

StartChild = Callable[[str, dict[str, Any]], Awaitable[str]]
"""Starts the child of a key with the fields of a start; returns its id."""

ReadHistory = Callable[[int], Awaitable[list[Message]]]
"""Reads the last so many messages before the run."""


class RunContext(RunView[InputT], Emitter, Generic[InputT]):
    """One segment of a run, as its engine sees it. Safe to use from all tasks the engine starts.

    Every emitting method may raise `Fenced` or `ChannelClosed` (the run is over for this segment: let it
    pass), `EventTooLarge` (over 256 KB) and `ContentTooLarge` (over 8 MB in total).
    """

    def __init__(
        self,
        channel: Channel,
        *,
        run_id: str,
        thread_id: str,
        user_id: str,
        tenant: str,
        input: InputT,  # noqa: A002 - the name engines use
        raw_input: Mapping[str, Any],
        metadata: Mapping[str, Any],
        segment: int = 1,
        state: bytes | None = None,
        decisions: Mapping[str, Decision] | None = None,
        settings: Settings | None = None,
        stopping: Callable[[], bool] = lambda: False,
        save: SaveCheckpoint | None = None,
        inbox: Inbox | None = None,
        memory: Memory | None = None,
        history: ReadHistory | None = None,
        files: Files | None = None,
        accounts: Accounts | None = None,
        note_effect: NoteEffect | None = None,
        start_child: StartChild | None = None,
    ) -> None:
        RunView.__init__(  # pyright: ignore[reportUnknownMemberType]
            self,
            run_id=run_id,
            thread_id=thread_id,
            user_id=user_id,
            tenant=tenant,
            input=input,
            raw_input=raw_input,
            metadata=metadata,
            segment=segment,
            state=state,
            decisions=decisions,
            settings=settings or Settings(),
            stopping=stopping,
        )
        calls = ProviderCalls(channel, self.settings, accounts or NoAccounts(), channel.fold.usage)
        origin = Origin.of(channel, run_id=run_id, segment=segment, files=files, provider_calls=calls)
        Emitter.__init__(self, channel, origin)
        self.memory: Final[Memory] = memory or Memory(settings=self.settings)
        """Bytes that the engine keeps on the thread; the next checkpoint, pause or end commits them."""
        self.inbox: Final[Inbox] = inbox or Inbox(channel)
        """Text that users send while the run is at work, in order of arrival. What is not read is handed
        back to them when the run ends."""
        self.pause: Pause | None = None
        """What the engine asked a human for, once it has."""
        self.effects: Final[Effects] = Effects(
            note_effect or effects.forgetting(), origin, decisions=self.decisions
        )
        """What `effect` is made of."""
        self._waits = 0
        self._start_child = start_child
        self._save = save
        self._saving = asyncio.Lock()
        self._history = history

    # -- what was said before

    async def messages(self, *, limit: int = 200) -> list[Message]:
        """Return the last messages of the thread before this run, on its branch, oldest first.

        What its own input says is not among them. A run that answers an earlier question again has that
        question as the last one.
        """
        return [] if self._history is None else await self._history(limit)

    async def history(self, *, limit: int = 200) -> list[dict[str, Any]]:
        """Return the same in the shape that models take: chat completions' messages, each call answered."""
        return transcripts.chat(await self.messages(limit=limit))

    def agent(self, name: str, *, parent: str | None = None, **details: Any) -> AgentEntry:
        """Let a sub-agent emit: `async with run.agent("writer", parent=call_id) as sub:`.

        What it says is a part of its own, named `agent`; its steps, calls, usage and approvals name it, and
        `parent`, the tool call that it works for. Agents may work side by side, and have agents themselves.
        `await run.agent(name)` only states which agent is at work now.
        """
        return AgentEntry(self, self.interrupt, name, parent=parent, details=details)

    # -- durability

    async def checkpoint(self, state: bytes = b"") -> None:
        """Save the engine's own state: a later segment, on any worker, finds it in `run.state`.

        It covers everything emitted before, and commits what was put into `run.memory` with it, at once. The
        bytes are the engine's business; put a version into them.

        Raises:
            CheckpointTooLarge: the state is.
        """
        if self._save is None:
            raise RuntimeError("This segment has nowhere to save checkpoints.")
        checked = pauses.checked_state(state)
        assert checked is not None
        async with self._saving:  # of two at once the later one covers more
            changes = self.memory.changes()
            if await self._save(checked, await self._channel.flush(), changes):
                self.memory.committed(changes)

    async def effect(
        self, key: str, perform: Callable[[str], Any], *, on_unknown: OnUnknown = "retry"
    ) -> Any:
        """Perform a side effect once in the run's life; return its result, now and on every re-entry.

        `perform` gets an idempotency key, the same whenever it is called for this effect, and returns what
        JSON can hold; a plain `def` runs in a thread. If it raises, or its worker is lost meanwhile, nobody
        knows whether the effect happened. Whoever asks next then does as `on_unknown` says: `retry` performs
        it again, with the same idempotency key; `ask` pauses once for a human who knows; `fail` raises.

        Raises:
            EffectUnknown: nobody knows whether it happened, and that is not to be found out by a retry.
            EffectsFull: the run has 10,000 already.
            ValueError: the key is empty or over 256 bytes, or the result is no JSON.
        """
        with self.busy():
            async with self.effects.alone(key):
                known = await self.effects.begin(key, on_unknown=on_unknown, ask=self.interrupt)
                if known.done:
                    return known.result
                result = await effects.perform(perform, self.idempotency_key(key))
                return await self.effects.end(key, result)

    # -- asking humans

    async def interrupt(
        self,
        items: Iterable[Item | Mapping[str, Any]],
        *,
        state: bytes | None = None,
        window_s: float | None = None,
        on_expiry: OnExpiry = "fail",
    ) -> NoReturn:
        """Pause the run until people have decided about items: never returns. See `request_approval`.

        Each item has an `id`, a `type` and a `value`; approvals, questions and data may be mixed. The answer
        to data, and to a question with a `response_schema`, is JSON that fits the schema: `value` of its
        decision in `run.decisions`.

        Raises:
            ValueError: an item does not fit, two have the same id, or there is none.
            EventTooLarge, CheckpointTooLarge: the items or the state are.
        """
        window_s = self.settings.approval_window_s if window_s is None else window_s
        await self._wait_for_human(
            pauses.pause_for(items, state=state, window_s=window_s, on_expiry=on_expiry)
        )

    async def request_approval(
        self,
        calls: Iterable[Call | Mapping[str, Any]],
        *,
        state: bytes | None = None,
        window_s: float | None = None,
        on_expiry: OnExpiry = "fail",
    ) -> NoReturn:
        """Pause the run until a human has decided about tool calls: never returns, ends this segment.

        The engine's function is entered again afterwards, in another task, with the decisions in
        `run.decisions` by call id, those of earlier pauses too.

        Args:
            calls: `call_id`, `name`, `arguments`; also `allowed_decisions` (approve, reject, edit), `reason`
                and `arguments_schema`, which edits must fit.
            state: what the continuation finds in `run.state`; by default the last checkpoint.
            window_s: how long there is to decide; by default MAINSTEM_APPROVAL_WINDOW_S.
            on_expiry: what becomes of an undecided run: it may `fail`, or go on with everything rejected.

        Raises:
            ValueError: a call does not fit, or two have the same id.
            EventTooLarge, CheckpointTooLarge: the calls or the state are.
        """
        window_s = self.settings.approval_window_s if window_s is None else window_s
        await self._wait_for_human(
            pauses.pause_for_approval(calls, state=state, window_s=window_s, on_expiry=on_expiry)
        )

    async def ask(
        self,
        questions: Iterable[Question | Mapping[str, Any] | str],
        *,
        state: bytes | None = None,
        window_s: float | None = None,
        on_expiry: OnExpiry = "fail",
    ) -> NoReturn:
        """Pause the run until a human has answered one to four questions. See `request_approval`.

        A question is a text, or `question_id`, `text` and maybe `options`. Give ids of your own if the run
        asks more than once: `run.decisions` has the latest answer for each.
        """
        window_s = self.settings.approval_window_s if window_s is None else window_s
        await self._wait_for_human(
            pauses.pause_for_answers(questions, state=state, window_s=window_s, on_expiry=on_expiry)
        )

    # -- waiting for a time, or an event

    async def sleep(
        self, until: float | datetime, *, key: str | None = None, state: bytes | None = None
    ) -> None:
        """Let the run rest for so many seconds, or until a time; no worker is held meanwhile.

        More than a second ends this segment, as `request_approval` does: the engine's function is entered
        again afterwards, and this returns at once. `key` tells sleeps apart; by default they are numbered in
        the order of their calls, which then must be the same on each entry.
        """
        wait_id = self._wait_id("sleep", key)
        if wait_id in self.decisions:
            return
        until_ms = _due_ms(until)
        left_ms = until_ms - now_ms()
        if left_ms <= SHORT_SLEEP_MS:
            with self.busy():
                await asyncio.sleep(max(0, left_ms) / 1000)
            return
        await self._wait_for_human(
            pauses.pause_to_wait(Wait(wait_id=wait_id), state=state, until_ms=until_ms)
        )

    async def wait_event(
        self,
        event: str,
        *,
        timeout_s: float | None = None,
        lookback_s: float = 0,
        key: str | None = None,
        state: bytes | None = None,
    ) -> Any:
        """Wait until somebody sends an event (`POST /v1/events/{key}`); return its payload.

        No worker is held: the segment ends, and on the next entry this returns at once. Events of the run's
        user count that come from now on, or came in the last `lookback_s` seconds. See `sleep` for `key`.

        Raises:
            TimeoutError: none came within `timeout_s`; by default MAINSTEM_APPROVAL_WINDOW_S.
        """
        wait_id = self._wait_id("event", key)
        if (outcome := self.decisions.get(wait_id)) is not None:
            if outcome.type == "timeout":
                raise TimeoutError(f"nobody sent the event {event!r} in time")
            return outcome.value
        window_s = self.settings.approval_window_s if timeout_s is None else timeout_s
        wait = Wait(wait_id=wait_id, event=event, since_ms=now_ms() - pauses.milliseconds(lookback_s))
        until_ms = now_ms() + pauses.milliseconds(window_s)
        pause = pauses.pause_to_wait(wait, state=state, until_ms=until_ms)
        return await self._wait_for_human(pause)

    # -- children

    async def start_child(
        self,
        engine: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the name engines use
        *,
        key: str,
        **options: Any,
    ) -> str:
        """Start a run of its own as this run's child; return its id. `key` tells children apart.

        The same key is the same child, on every entry. An abort of this run goes down to it. It has a thread
        of its own, unless `thread_id` names one; `options` are those of a start (`metadata`, `budget`, …).

        Raises:
            InvalidRequest, TooManyRuns, ThreadBusy: as a start by anybody else.
        """
        if self._start_child is None:
            raise RuntimeError("This segment cannot start other runs.")
        child = await self._start_child(key, {**options, "engine": engine, "input": dict(input or {})})
        await self.data(f"child:{child}", "child", {"run_id": child, "engine": engine, "key": key})
        return child

    async def wait_children(
        self,
        run_ids: Iterable[str],
        *,
        timeout_s: float | None = None,
        key: str | None = None,
        state: bytes | None = None,
    ) -> list[dict[str, Any]]:
        """Wait until runs are over; return the `status`, `reason`, `text`, `output` and `error` of each.

        No worker is held: the segment ends, and on the next entry this returns at once (`key`: see `sleep`).

        Raises:
            TimeoutError: not all of them were over within `timeout_s`; by default MAINSTEM_APPROVAL_WINDOW_S.
            ValueError: one of them is no run's id.
        """
        wait_id = self._wait_id("children", key)
        if not (waited_for := tuple(run_ids)):
            return []
        if (outcome := self.decisions.get(wait_id)) is not None:
            if outcome.type == "timeout":
                raise TimeoutError("not all children were over in time")
            return list(outcome.value)
        window_s = self.settings.approval_window_s if timeout_s is None else timeout_s
        wait = Wait(wait_id=wait_id, runs=waited_for)
        until_ms = now_ms() + pauses.milliseconds(window_s)
        pause = pauses.pause_to_wait(wait, state=state, until_ms=until_ms)
        return await self._wait_for_human(pause)

    def _wait_id(self, kind: str, key: str | None) -> str:
        self._waits += 1
        return f"{kind}:{self._waits if key is None else key}"

    async def _wait_for_human(self, pause: Pause) -> NoReturn:
        if self.pause is None:  # of several tasks the first one asks; the others ask in the continuation
            self.pause = pause
            self.inbox.close()
        await self._channel.flush()
        raise Paused


def _due_ms(until: float | datetime) -> int:
    """Return when a sleep is over; a time without a zone is UTC."""
    if not isinstance(until, datetime):
        return now_ms() + pauses.milliseconds(until)
    aware = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return now_ms() + pauses.milliseconds(aware.timestamp() - now_ms() / 1000)
