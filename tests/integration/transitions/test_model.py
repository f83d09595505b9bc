"""Random interleavings of the verbs by several actors, some of whom lose replies, against a plain-Python model.

`make soak` sets MAINSTEM_MODEL_EXAMPLES for many more of them than `make test` tries.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ResponseError

from mainstem_shared import transitions
from mainstem_shared.model import events
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import TERMINAL, Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.verb_model import ACTIVE, Model, Run
from support.processes.servers import ValkeyProcess

SETTINGS = Settings()
OWNERS = st.sampled_from(("worker-1", "worker-2", "sweeper"))
ENDINGS = st.sampled_from((Reason.COMPLETED, Reason.USER_ABORT, Reason.WORKER_LOST))
STOPS = st.sampled_from((Reason.USER_ABORT, Reason.THREAD_DELETED))
ACTIONS = st.sampled_from(("first", "second"))
INPUTS = st.integers(0, transitions.INPUTS_WAITING_LIMIT + 1).map("input-{}".format)
DIGESTS = st.sampled_from(("approve", "reject"))
RUNS = 8
EXAMPLES = int(os.environ.get("MAINSTEM_MODEL_EXAMPLES", "80"))
STEPS = 50
MOSTLY = st.sampled_from((True, True, True, True, False))
AT_WORK, QUEUED, WAITING = (Status.RUNNING,), (Status.QUEUED,), (Status.REQUIRES_ACTION,)
_threads = itertools.count()

Call = tuple[Callable[[], Awaitable[Any]], Callable[[], Any]]
"""The same call, to the store and to the model."""
Step = Callable[[st.DataObject], None]


class Verbs(RuleBasedStateMachine):
    """A few runs of one thread. An actor knows the control that it got; whether it still has it is for the store to say."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = Store(self.url)
        self.model = Model()
        self.unanswered: list[Call] = []
        thread = f"model-{next(_threads)}"
        self.ids = [v.new_run(thread) for _ in range(RUNS)]
        self._nonces = (f"nonce-{n}" for n in itertools.count())

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()

    @property
    def runs(self) -> list[Run]:
        return list(self.model.runs.values())

    def ask(self, call: Call) -> Any:
        """Ask both, and compare."""
        real, modelled = call
        answer, expected = self.loop.run_until_complete(real()), modelled()
        match answer:
            case transitions.Claimed():
                answer = ("claimed", answer.epoch, answer.segment, answer.inputs)
            case transitions.Accepted():
                answer = ("accepted", answer.number, answer.owner)
            case transitions.Control():
                answer = dataclasses.replace(answer, nonce="")
            case _:
                pass
        assert answer == expected
        return answer

    def control(self, data: st.DataObject, run: Run) -> transitions.Control:
        """Some actor's idea of who has control: mostly right, sometimes of the past."""
        epoch = run.epoch if data.draw(MOSTLY) else data.draw(st.integers(1, run.epoch))
        owner = run.owner if data.draw(MOSTLY) else data.draw(OWNERS)
        return transitions.Control(run_id=run.run_id, epoch=epoch, owner=owner)

    def top(self, data: st.DataObject, run: Run) -> Cursor:
        return (
            run.top if data.draw(st.integers(0, 4)) else data.draw(st.sampled_from([c for c, _ in run.log]))
        )

    def has(self, statuses: tuple[Status, ...]) -> bool:
        return any(run.status in statuses for run in self.runs)

    def draw(self, data: st.DataObject, likely: tuple[Status, ...]) -> Run:
        """Some run; mostly one where the call has a chance."""
        promising = [run for run in self.runs if run.status in likely]
        if promising and data.draw(MOSTLY):
            return data.draw(st.sampled_from(promising))
        return data.draw(st.sampled_from(self.runs))

    def ask_once_or_twice(self, data: st.DataObject, call: Call) -> None:
        """Ask; a lost reply may be asked for again at once, or later (`ask_again`)."""
        self.ask(call)
        if data.draw(st.booleans()):
            self.ask(call)
        else:
            self.unanswered.append(call)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Somebody asks for something, mostly for what makes sense. (One rule: swarms of rules rarely get far.)"""
        chances: list[tuple[int, Step]] = [(1 if self.has(ACTIVE) else 9, self.start)]
        if self.has(QUEUED):
            chances += [(4, self.claim), (1, self.stop), (1, self.promote), (1, self.publish)]
        if self.has(AT_WORK):
            chances += [
                (4, self.append),
                (2, self.seal),
                (1, self.finish),
                (1, self.handover),
                (1, self.stop),
            ]
            chances += [(1, self.resync), (2, self.pause), (3, self.snapshot), (2, self.checkpoint)]
            chances += [(3, self.steer), (2, self.inbox)]
        if self.has(WAITING):
            chances += [(4, self.resolve), (1, self.stop), (1, self.steer)]
        if self.has(tuple(TERMINAL)):
            chances += [(1, self.compact), (1, self.claim), (1, self.finish), (1, self.resolve)]
        if self.unanswered:
            chances.append((3, self.ask_again))
        weighted = [chosen for weight, chosen in chances for _ in range(weight)]
        data.draw(st.sampled_from(weighted))(data)

    # -- calls with a nonce

    def start(self, data: st.DataObject) -> None:
        if_active: Any = data.draw(st.sampled_from(("reject", "enqueue", "replace")))
        fresh = [run_id for run_id in self.ids if run_id not in self.model.runs]
        run_id = fresh[0] if fresh and data.draw(MOSTLY) else data.draw(st.sampled_from(self.ids))
        nonce = next(self._nonces)
        call = (
            lambda: v.start(self.store, run_id, nonce=nonce, if_active=if_active),
            lambda: self.model.start(run_id, nonce, if_active),
        )
        self.ask_once_or_twice(data, call)

    def claim(self, data: st.DataObject) -> None:
        owner = data.draw(OWNERS)
        run, nonce = self.draw(data, QUEUED), next(self._nonces)
        call = (
            lambda: v.claim(self.store, run.run_id, nonce=nonce, owner=owner),
            lambda: self.model.claim(run, nonce, owner),
        )
        self.ask_once_or_twice(data, call)

    def append(self, data: st.DataObject) -> None:
        """An owner, or a zombie, appends: only what comes after the top lands."""
        run = self.draw(data, AT_WORK)
        now_writes = data.draw(st.booleans())
        epoch = run.epoch if now_writes else data.draw(st.integers(1, run.epoch))
        if epoch == run.epoch and run.status is not Status.RUNNING:
            return  # nobody was ever told this epoch to write in
        for _ in range(data.draw(st.integers(1, 3))):
            seq = run.top.seq + 1 if epoch == run.top.epoch else 1
            cursor = Cursor(epoch, seq)
            assert self.loop.run_until_complete(self._xadd(run, cursor)) == self.model.append(run, *cursor)

    async def _xadd(self, run: Run, cursor: Cursor) -> bool:
        control = transitions.Control(run_id=run.run_id, epoch=cursor.epoch, owner="")
        try:
            await v.append(self.store, control, "x", seq=cursor.seq)
        except ResponseError as error:
            if "equal or smaller" in str(error):
                return False
            raise
        return True

    def seal(self, data: st.DataObject) -> None:
        sealer = data.draw(OWNERS)
        run, nonce = self.draw(data, AT_WORK), next(self._nonces)
        control = self.control(data, run)
        call = (
            lambda: v.seal(self.store, control, nonce=nonce, sealer=sealer),
            lambda: self.model.seal(run, nonce, sealer, control.epoch),
        )
        self.ask_once_or_twice(data, call)

    def finish(self, data: st.DataObject) -> None:
        reason = data.draw(ENDINGS)
        run, nonce = self.draw(data, AT_WORK), next(self._nonces)
        control, top = self.control(data, run), self.top(data, run)
        call = (
            lambda: v.finish(self.store, control, nonce=nonce, top=top, reason=reason),
            lambda: self.model.finish(run, nonce, control.epoch, control.owner, top, reason),
        )
        self.ask_once_or_twice(data, call)

    def handover(self, data: st.DataObject) -> None:
        lost = data.draw(st.booleans())
        run, nonce = self.draw(data, AT_WORK), next(self._nonces)
        control, top = self.control(data, run), self.top(data, run)
        call = (
            lambda: v.handover(self.store, control, nonce=nonce, top=top, lost=lost),
            lambda: self.model.handover(
                run, nonce, control.epoch, control.owner, top, resume_as="run.restarted", lost=lost
            ),
        )
        self.ask_once_or_twice(data, call)

    def resync(self, data: st.DataObject) -> None:
        run, nonce = self.draw(data, AT_WORK), next(self._nonces)
        control = self.control(data, run)
        call = (
            lambda: v.resync(self.store, control, nonce=nonce),
            lambda: self.model.resync(run, nonce, control.epoch, control.owner),
        )
        self.ask_once_or_twice(data, call)

    def pause(self, data: st.DataObject) -> None:
        name = data.draw(ACTIONS)
        run, nonce = self.draw(data, AT_WORK), next(self._nonces)
        control, top = self.control(data, run), self.top(data, run)
        call = (
            lambda: self._pause(control, nonce, top, name),
            lambda: self.model.pause(run, nonce, control.epoch, control.owner, top, name),
        )
        self.ask_once_or_twice(data, call)

    async def _pause(self, control: transitions.Control, nonce: str, top: Cursor, name: str) -> Any:
        state = await transitions.read(self.store, control.run_id)
        assert isinstance(state, transitions.State)
        return await transitions.pause(
            self.store,
            control,
            nonce=nonce,
            top=top,
            spec=state.spec,
            action=Action(
                action_id=name,
                kind="question",
                questions=(Question(question_id="q", text="?"),),
                expires_ms=now_ms() + 600_000,
            ),
            fold=Content(),
            checkpoint=b"state",
            settings=SETTINGS,
        )

    def resolve(self, data: st.DataObject) -> None:
        name, digest = data.draw(ACTIONS), data.draw(DIGESTS)
        run, nonce = self.draw(data, WAITING), next(self._nonces)
        name = run.last_action if run.last_action and data.draw(MOSTLY) else name
        call = (
            lambda: self._resolve(run, nonce, name, digest),
            lambda: self.model.resolve(run, nonce, name, digest),
        )
        self.ask_once_or_twice(data, call)

    async def _resolve(self, run: Run, nonce: str, name: str, digest: str) -> Any:
        seen = await transitions.read_action(self.store, run.run_id, name)
        assert isinstance(seen, transitions.Waiting)
        return await transitions.resolve(
            self.store,
            run.run_id,
            nonce=nonce,
            action_id=name,
            fingerprint=seen.fingerprint,
            digest=digest,
            decisions={},
            kind=Type.APPROVAL_RESOLVED,
            body={"at": 1},
            live_ttl_ms=v.LIVE_MS,
        )

    def ask_again(self, data: st.DataObject) -> None:
        """The reply was lost: the same caller asks again, however much has happened since."""
        at = data.draw(st.integers(1, min(len(self.unanswered), 5)))
        self.ask(self.unanswered.pop(-at))

    # -- calls that are repeatable by themselves

    def snapshot(self, data: st.DataObject) -> None:
        run = self.draw(data, AT_WORK)
        control, cursor = self.control(data, run), self.top(data, run)
        self.ask(
            (
                lambda: v.snapshot(self.store, control, cursor),
                lambda: self.model.save_snapshot(run, control.epoch, control.owner, cursor),
            )
        )

    def checkpoint(self, data: st.DataObject) -> None:
        run = self.draw(data, AT_WORK)
        control, cursor = self.control(data, run), self.top(data, run)
        self.ask(
            (
                lambda: transitions.checkpoint(
                    self.store, control, cursor=cursor, state=b"s", fold=b"{}", live_ttl_ms=v.LIVE_MS
                ),
                lambda: self.model.save_checkpoint(run, control.epoch, control.owner, cursor),
            )
        )

    def steer(self, data: st.DataObject) -> None:
        """A user says something, or says it again."""
        run = self.draw(data, (*AT_WORK, *QUEUED))
        input_id, text = data.draw(INPUTS), data.draw(DIGESTS)
        self.ask(
            (
                lambda: transitions.steer(self.store, run.run_id, input_id=input_id, text=text, by=None),
                lambda: self.model.steer(run, input_id, text),
            )
        )

    def inbox(self, data: st.DataObject) -> None:
        run = self.draw(data, AT_WORK)
        control = self.control(data, run)
        known = data.draw(st.integers(0, len(run.inputs)))
        read = data.draw(st.integers(run.inputs_read, max(run.inputs_read, known)))
        self.ask(
            (
                lambda: self._inbox(control, read, known),
                lambda: self.model.inbox(run, control.epoch, control.owner, read, known),
            )
        )

    async def _inbox(self, control: transitions.Control, read: int, known: int) -> Any:
        answer = await transitions.inbox(self.store, control, read=read, known=known)
        return [entry["input_id"] for entry in answer] if isinstance(answer, list) else answer

    def stop(self, data: st.DataObject) -> None:
        reason = data.draw(STOPS)
        run = self.draw(data, (*AT_WORK, *WAITING))
        self.ask(
            (
                lambda: transitions.stop(self.store, run.run_id, reason=reason),
                lambda: self.model.stop(run, reason),
            )
        )

    def publish(self, data: st.DataObject) -> None:
        """Somebody notes a message, in time or late."""
        run, task = self.draw(data, QUEUED), f"task-{next(self._nonces)}"
        self.ask(
            (
                lambda: transitions.published(self.store, run.run_id, task_id=task),
                lambda: self.model.publish(run, task),
            )
        )

    def promote(self, data: st.DataObject) -> None:
        """A sweeper looks after a run; while the thread is held it changes nothing."""
        run = self.draw(data, QUEUED)
        ttl = {"live_ttl_ms": v.LIVE_MS, "thread_ttl_ms": v.THREAD_MS}
        self.ask(
            (lambda: transitions.promote(self.store, run.run_id, **ttl), lambda: self.model.promote(run))
        )

    def compact(self, data: st.DataObject) -> None:
        run = self.draw(data, tuple(TERMINAL))
        self.ask((lambda: transitions.compact(self.store, run.run_id), lambda: self.model.compact(run)))

    # -- after every step

    @invariant()
    def the_store_is_the_model(self) -> None:
        self.loop.run_until_complete(self._compare())

    async def _compare(self) -> None:
        client = self.store.client
        k = keys.run(self.ids[0])
        async with client.pipeline(transaction=False) as pipe:
            pipe.hget(k.thread, "active")
            pipe.lrange(k.thread_queue, 0, -1)
            for run in self.runs:
                mine = keys.run(run.run_id)
                pipe.hmget(mine.record, *FIELDS)
                pipe.xrange(mine.log)
                pipe.hget(mine.snapshot, "cursor")
                pipe.hget(mine.checkpoint, "cursor")
            holder, queue, *rest = await pipe.execute()
        assert (holder and holder.decode()) == self.model.holder
        assert [run_id.decode() for run_id in queue] == self.model.queue
        for run, (fields, log, snapshot, checkpoint) in zip(self.runs, _fours(rest), strict=True):
            self._compare_run(run, fields, log, snapshot, checkpoint)

    @staticmethod
    def _compare_run(run: Run, fields: list[Any], log: Any, snapshot: Any, checkpoint: Any) -> None:
        status, waiting, epoch, owner, stop, reason, segment = (f and f.decode() for f in fields)
        assert (status, waiting, int(epoch)) == (run.status, run.waiting, run.epoch)
        if run.active:
            assert (owner or "") == run.owner
        assert (stop, reason, int(segment or 0)) == (run.stop, run.reason, run.segment)
        entries = [events.entry(raw_id, data) for raw_id, data in log]
        assert [(entry.cursor, entry.type) for entry in entries] == run.log
        assert all(after.follows(before.cursor) for before, after in itertools.pairwise(entries))
        assert (snapshot and snapshot.decode()) == (run.snapshot and str(run.snapshot))
        assert (checkpoint and checkpoint.decode()) == (run.checkpoint and str(run.checkpoint))


def _fours(values: list[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*[iter(values)] * 4, strict=True)


FIELDS = ("status", "waiting", "epoch", "owner", "stop_reason", "reason", "segment")


@pytest.fixture
def url(empty_server: ValkeyProcess) -> str:
    return empty_server.url(0)


def test_the_verbs_are_the_model(url: str):
    """Whatever several actors ask, in whatever order, with whatever replies lost: store and model stay the same."""
    machine = type("Machine", (Verbs,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
        ),
    )
