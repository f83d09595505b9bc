"""Resumes, aborts, expiry and replacement of one paused run, in any order of their commands.

Whatever the order: one outcome, and everybody is told what really happened.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import actions, events, ids
from mainstem_shared.model.actions import Action, Call, OnExpiry
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason, Run, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import resuming, starting
from mainstem_shared.operations.aborting import Abort, Aborter, AbortOutcome
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import pauses
from support.models import verb_calls as v
from support.models.interleaving import GatedStore, Turnstile

SETTINGS = Settings(max_active_runs_per_user=9)
WINDOW_MS = 60_000
EXAMPLES = 60
_threads = itertools.count()


class Messages:
    """A broker that takes everything."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    async def apublish(self, run_id: str, **_: Any) -> str:
        self.runs.append(run_id)
        return ids.nonce()


class Race:
    """One paused run, and those who want something of it."""

    def __init__(self, store: Store, on_expiry: OnExpiry) -> None:
        self.store = store
        self.on_expiry: OnExpiry = on_expiry
        self.thread = f"race-{next(_threads)}"
        self.turnstile = Turnstile()
        self.messages = Messages()
        self.late_ms = 0
        self.run_id = ""

    def now(self) -> int:
        return now_ms() + self.late_ms

    def operations(self, name: str) -> Operations:
        gated = GatedStore(self.store, name, self.turnstile)
        return Operations(store=gated, settings=SETTINGS, publisher=self.messages)

    async def pause(self) -> None:
        await self.store.client.delete(keys.user_slots("default", "u"))  # all races are of the same user
        control = await v.running(self.store, thread=self.thread)
        self.run_id = control.run_id
        paused = await transitions.pause(
            self.store,
            control,
            nonce=ids.nonce(),
            top=Cursor(control.epoch, 0),
            spec=await run_states.check_owner(self.store, self.run_id, tenant="default", user_id=None),
            action=self.action(),
            fold=Content(),
            checkpoint=b"state",
            settings=SETTINGS,
        )
        assert isinstance(paused, transitions.Paused)

    def action(self) -> Action:
        call = Call(call_id="c", name="tool", arguments={"n": 1})
        expires_ms = now_ms() + WINDOW_MS
        return Action(
            action_id="act",
            kind="tool_approval",
            calls=(call,),
            expires_ms=expires_ms,
            on_expiry=self.on_expiry,
        )

    # -- who wants what

    async def resume(self, name: str, kind: str) -> None:
        fields = {"action_id": "act", "decisions": [{"call_id": "c", "type": kind}]}
        await resuming.resume(self.operations(name), self.run_id, actions.parse_request(fields), by=name)

    async def abort(self, name: str) -> Abort:
        aborter = Aborter(operations=self.operations(name), sealer=lambda: name)
        return await aborter.abort(self.run_id)

    async def expire(self, name: str) -> bool:
        return await resuming.expire(self.operations(name), self.run_id, sealer=name)

    async def pass_time(self, name: str) -> None:
        await self.turnstile.turn(name)
        self.late_ms = 2 * WINDOW_MS

    async def replace(self, name: str) -> starting.StartAnswer:
        return await starting.start_run(
            self.operations(name),
            starting.parse_request({"engine": "demo", "if_active": "replace"}),
            principal=Principal(user_id="u"),
            thread_id=self.thread,
        )

    def actors(self, kinds: list[str]) -> dict[str, Awaitable[Any]]:
        made: dict[str, Awaitable[Any]] = {}
        for number, kind in enumerate(kinds):
            name = f"{kind} {number}"
            does: Callable[..., Awaitable[Any]] = {
                "abort": self.abort,
                "expire": self.expire,
                "time": self.pass_time,
                "replace": self.replace,
            }.get(kind) or (lambda name, kind=kind: self.resume(name, kind))
            made[name] = does(name)
        return made


class Truth:
    """What really happened, by the log."""

    def __init__(self, run: Run, entries: list[events.Entry], *, late: bool) -> None:
        self.run, self.late = run, late
        self.kinds = [entry.type for entry in entries]
        self.decided = [e.payload()["decisions"][0]["type"] for e in entries if e.type == "approval.resolved"]
        self.expired = "approval.expired" in self.kinds or run.reason is Reason.APPROVAL_EXPIRED
        assert all(after.follows(before.cursor) for before, after in itertools.pairwise(entries))
        assert len(self.decided) + self.expired <= 1
        assert self.kinds.count("run.finished") == run.status.is_terminal

    def check(self, name: str, answer: Any) -> None:
        """Whether this is what the actor should have been told."""
        kind = name.partition(" ")[0]
        if kind in {"approve", "reject"}:
            self._check_resume(kind, answer)
        elif kind == "abort":
            self._check_abort(answer)
        else:
            assert not isinstance(answer, BaseException), (name, answer)
        if kind in {"abort", "replace"}:
            assert self.run.status.is_terminal

    def _check_resume(self, kind: str, answer: Any) -> None:
        match answer:
            case None:
                assert self.decided == [kind]
            case errors.DecisionConflict():
                assert self.decided
                assert self.decided != [kind]
            case errors.ActionExpired():  # the time was over; a wish to stop may have come before the expiry
                assert self.late
                assert self.expired or self.run.status is Status.ABORTED
            case errors.NotPaused():
                assert self.run.status is Status.ABORTED
                assert not self.decided
            case _:
                raise AssertionError(answer)

    def _check_abort(self, answer: Any) -> None:
        assert isinstance(answer, Abort), answer
        if answer.outcome is AbortOutcome.ABORTED:
            assert self.run.status is Status.ABORTED
        else:
            assert answer.outcome is AbortOutcome.ALREADY_FINISHED
            assert self.run.reason in {Reason.APPROVAL_EXPIRED, Reason.REPLACED, Reason.USER_ABORT}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


WANTED = st.lists(
    st.sampled_from(("approve", "approve", "reject", "abort", "expire", "time", "replace")),
    min_size=2,
    max_size=5,
)


def test_one_outcome_and_everybody_is_told_the_truth(
    store_url: str, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
):
    """Any of them, in any order of their commands."""
    store = Store(store_url)
    seen: set[str] = set()

    @settings(
        max_examples=EXAMPLES,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(HealthCheck.too_slow,),
        print_blob=True,
    )
    @given(st.data(), WANTED, st.sampled_from(("fail", "reject")))
    def race(data: st.DataObject, kinds: list[str], on_expiry: OnExpiry) -> None:
        one = Race(store, on_expiry)
        for module in (resuming, pauses):
            monkeypatch.setattr(module, "now_ms", one.now)

        def choose(names: Any) -> str:
            return names[0] if len(names) == 1 else data.draw(st.sampled_from(names))

        runner.run(compete(one, kinds, choose, seen))

    async def expire() -> None:  # an outcome that few draws lead to
        one = Race(store, "fail")
        for module in (resuming, pauses):
            monkeypatch.setattr(module, "now_ms", one.now)
        await compete(one, ["time", "expire"], lambda names: names[0], seen)

    try:
        runner.run(expire())
        race()
    finally:
        runner.run(closed(store))
    assert {"queued", "user_abort", "replaced", "approval_expired"} <= seen, seen


async def closed(store: Store) -> None:
    await store.close()
    await asyncio.sleep(0)  # the transports' own goodbye


async def compete(one: Race, kinds: list[str], choose: Any, seen: set[str]) -> None:
    await one.pause()
    answers = await one.turnstile.run(one.actors(kinds), choose)
    entries = [
        events.entry(raw_id, fields)
        for raw_id, fields in await one.store.client.xrange(keys.run(one.run_id).log)
    ]
    truth = Truth(await run_states.get_run(one.store, one.run_id), entries, late=bool(one.late_ms))
    for name, answer in answers.items():
        truth.check(name, answer)
    seen.add(truth.run.reason or truth.run.status)
    if truth.run.status is Status.QUEUED:
        assert one.run_id in one.messages.runs
        claims = [await v.claim(one.store, one.run_id) for _ in range(3)]
        assert sum(isinstance(claim, transitions.Claimed) for claim in claims) == 1


async def test_a_stale_sweep_cannot_hit_a_newer_action(store_url: str):
    """What a sweeper saw of an older action ends nothing, and rejects nothing, of the one after it."""
    store = Store(store_url)
    for on_expiry in ("fail", "reject"):
        one = Race(store, on_expiry)
        operations = Operations(store=store, settings=SETTINGS, publisher=one.messages)
        await one.pause()
        seen = await transitions.read_action(store, one.run_id, "act")
        assert isinstance(seen, transitions.Waiting)
        assert seen.action is not None
        request = actions.parse_request(
            {"action_id": "act", "decisions": [{"call_id": "c", "type": "approve"}]}
        )
        await resuming.resume(operations, one.run_id, request)
        claimed = await v.claim(store, one.run_id)
        control = transitions.Control(run_id=one.run_id, epoch=claimed.epoch, owner="me")
        newer = one.action().model_copy(update={"action_id": "newer"})
        await transitions.pause(
            store,
            control,
            nonce=ids.nonce(),
            top=Cursor(control.epoch, 0),
            spec=seen.spec,
            action=newer,
            fold=Content(),
            checkpoint=None,
            settings=SETTINGS,
        )
        before = await v.everything(store)
        await resuming._expire(operations, seen, seen.action, sealer="sweeper")
        assert await v.everything(store) == before
        run = await run_states.get_run(store, one.run_id)
        assert (run.status, run.action and run.action["action_id"]) == (Status.REQUIRES_ACTION, "newer")
    await store.close()
