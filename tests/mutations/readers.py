"""Breaks chapter 3 of the contract: late readers and reconnects."""

from __future__ import annotations

from typing import Final

from mutations.mutation import API, LUA, SHARED, Mutation

M = Mutation
_SUBSCRIPTIONS: Final = f"{SHARED}/eventlog/reading/subscriptions.py"
_TAILER: Final = f"{SHARED}/eventlog/reading/tailer.py"
_STATES: Final = f"{SHARED}/eventlog/reading/run_states.py"
_CONTENTS: Final = f"{SHARED}/model/contents.py"

MUTATIONS: Final = (
    M(
        rows=(55,),
        file=_TAILER,
        old="Subscription(self.store, followed, after or cursors.START)",
        new="Subscription(self.store, followed, after or Cursor(1, 0))",
    ),
    M(
        rows=(56,),
        file=_SUBSCRIPTIONS,
        old="self._live = False\n        self._wake()",
        new="self._wake()",
        only=("test_a_slow_reader_loses_nothing_and_delays_nobody",),
    ),
    M(rows=(57,), file=_TAILER, old="self._followed.pop(run_id, None)", new="pass"),
    M(
        rows=(58,),
        file=_TAILER,
        old="from_snapshot=from_snapshot and after is None",
        new="from_snapshot=False",
    ),
    M(
        rows=(59, 208),
        file=f"{LUA}/page.lua",
        old="'(' .. cursor, '+'",
        new="cursor, '+'",
        only=(
            "test_reconnecting_a_hundred_times_costs_no_event_and_no_time",
            "test_events_are_followed_from_any_cursor",
        ),
    ),
    M(
        rows=(60, 81),
        file=f"{API}/gateway/sse.py",
        old="listener.add_done_callback(lambda _: subscription.close(End.CLOSED))",
        new="listener.add_done_callback(lambda _: None)",
        only=("test_a_reader_that_leaves_is_forgotten",),
    ),
    M(
        rows=(61,),
        file=_SUBSCRIPTIONS,
        old="self.cursor = cursor\n",
        new="self.cursor = max(cursor, Cursor(1, 1))\n",
    ),
    M(
        rows=(62,),
        file=_SUBSCRIPTIONS,
        old="fresh = self._queue[len(known) :]",
        new="fresh = self._queue",
        only=("test_what_lands_while_a_reader_catches_up_comes_once",),
    ),
    M(
        rows=(64,),
        file=_SUBSCRIPTIONS,
        old="if fresh and base != self.cursor:",
        new="if False:",
    ),
    M(
        rows=(65,),
        file=f"{SHARED}/eventlog/reading/state_frames.py",
        old="return [Frame(snapshot), *chain(stored, self.state.entries)]",
        new="return [*chain(stored, self.state.entries), Frame(snapshot)]",
    ),
    M(
        rows=(66,),
        file=_TAILER,
        old="followed.subscriptions.discard(subscription)",
        new="pass",
    ),
    M(
        rows=(68,),
        file=_SUBSCRIPTIONS,
        old="full = self._queued + size > QUEUE_BYTES or len(self._queue) + len(frames) > QUEUE_FRAMES",
        new="full = False",
        only=("test_a_slow_reader_loses_nothing_and_delays_nobody",),
    ),
    M(rows=(69,), file=_CONTENTS, old='"title": self.title,\n', new='"title": None,\n'),
    M(
        rows=(70,),
        file=_STATES,
        old="return contents.fold(state.entries, stored), state.top, None",
        new="return contents.fold(state.entries, None), state.top, None",
        only=(
            "test_a_cold_reader_gets_snapshot_and_tail_at_any_time",
            "test_a_run_is_read_folded_to_the_top_in_every_state",
        ),
    ),
    M(
        rows=(71,),
        file=_STATES,
        old='content=folded.dump()["content"],',
        new='content=folded.dump()["content"] or [{"type": "text", "text": ""}],',
    ),
    M(
        rows=(73,),
        file=_CONTENTS,
        old='self._steps = {step["step_id"]: step for step in self.steps}',
        new="self._steps = {}",
    ),
    M(
        rows=(74,),
        file=f"{LUA}/read.lua",
        old="local from = snap[1] and ('(' .. snap[1]) or '-'",
        new="local from = '-'",
    ),
    M(rows=(75,), file=_CONTENTS, old='self.action = data["action"]', new="del data"),
    M(rows=(76,), file=_CONTENTS, old='self.title = data["title"]', new="del data"),
    M(
        rows=(80,),
        file=_SUBSCRIPTIONS,
        old="self.close(End.FINISHED)\n        return frames",
        new="self.close(End.CLOSED)\n        return frames",
    ),
    M(
        rows=(84,),
        file=f"{LUA}/start.lua",
        old="if mine[1] == nonce then",
        new="if true then",
    ),
)
