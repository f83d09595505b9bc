"""The process that acts dies after each single command it sends: somebody else heals what it leaves behind.

Every registered transition (`operations.performing`), and the pairs of docs/pairs.md: a case is begun again and
again, each time on a run of its own, by a process that dies one command later than the one before.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model import actions, events, ids
from mainstem_shared.model.contents import Content
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import (
    aborting,
    ending,
    forking,
    quotas,
    recovery,
    resuming,
    starting,
    steering,
)
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import CLAIM, PAUSE, TRANSITIONS, Operations, nobody
from mainstem_shared.operations.queries import conversations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed, specs
from support.models import verb_calls as v
from support.processes import dying_process

SETTINGS = Settings(max_active_runs_per_user=50)
HEALED_MS = int(4 * SETTINGS.lease_s * 1000)
"""Whatever a crash left is looked at within a minute; so much later nothing may be waiting any more."""
SWEEPS = 4  # a death is believed in the second; what a sweep ends may let another run begin
MOST_COMMANDS = 60


@dataclass(kw_only=True)
class Case:
    """One operation on a thread of its own, as the process that performs it sees the world."""

    store: Store
    messages: dying_process.Messages
    user: str
    run_id: str = ""
    owner: str = ""
    settings: Settings = SETTINGS
    performed: set[str] = field(default_factory=set[str])
    """The operations that were, by name."""

    @property
    def operations(self) -> Operations:
        performed = self.performed

        class Noting(Operations):
            """Notes what it performs."""

            async def perform(self, change: Any, **options: Any) -> Any:
                performed.add(change.name)
                return await super().perform(change, **options)

        return Noting(store=self.store, settings=self.settings, publisher=self.messages)

    @property
    def aborter(self) -> Aborter:
        return Aborter(operations=self.operations, revoker=self.messages, sealer=lambda: "the dying")

    async def start(self, if_active: str = "reject", key: str | None = None) -> str:
        fields = {"engine": "demo", "input": {}, "if_active": if_active, "on_worker_lost": "resume"}
        outcome = await starting.start_run(
            self.operations,
            starting.parse_request(fields),
            principal=Principal(user_id=self.user),
            thread_id=self.user,
            idempotency_key=key,
        )
        return outcome.run_id

    async def claim(self, owner: str) -> transitions.Control:
        """Execute the run as a worker does: first in the list, then the claim."""
        claim = CLAIM.of(
            self.run_id,
            nonce=ids.nonce(),
            owner=owner,
            is_current=lambda: True,
            task_id="task",
            live_ttl_ms=v.LIVE_MS,
        )
        claimed = await self.operations.perform(claim, notify=nobody)
        assert isinstance(claimed, transitions.Claimed)
        return transitions.Control(run_id=self.run_id, epoch=claimed.epoch, owner=owner)

    async def control(self) -> tuple[transitions.Control, transitions.State]:
        state = await transitions.read(self.store, self.run_id)
        assert isinstance(state, transitions.State)
        return transitions.Control(run_id=self.run_id, epoch=state.epoch, owner=state.owner), state


Action = Callable[[Case], Awaitable[Any]]


# -- what is there before: a run that is queued, that a living worker executes, that waits for a human


async def nothing(case: Case) -> None:
    """No run yet."""


async def queued(case: Case) -> None:
    case.run_id = await case.start()


async def running(case: Case) -> None:
    """A run of a worker that lives until the test says otherwise."""
    await queued(case)
    case.owner = f"worker of {case.user}"
    await case.store.client.set(keys.lease(case.owner), "worker", px=v.LIVE_MS)
    await case.store.client.zadd(keys.WORKERS, {case.owner: now_ms()})
    await case.claim(case.owner)


async def running_with_another_behind(case: Case) -> None:
    await running(case)
    await case.start("enqueue")


async def behind_a_run_that_is_gone(case: Case) -> None:
    """A run that waits for a thread whose holder's record expired."""
    await running_with_another_behind(case)
    holder = keys.run(case.run_id)
    await case.store.client.delete(holder.record, holder.log)
    await case.store.client.zrem(holder.active, case.run_id)


async def lost(case: Case) -> None:
    """A run of a worker that is dead."""
    await running(case)
    await case.store.client.delete(keys.lease(case.owner))


async def paused(case: Case) -> None:
    await running(case)
    await pause(case)


async def expired(case: Case) -> None:
    """A paused run whose window is over."""
    await running(case)
    await pause(case, window_ms=-1)


# -- what the dying process does


async def start(case: Case) -> None:
    case.run_id = await case.start(key="once")


async def enqueue(case: Case) -> None:
    await case.start("enqueue", key="once")


async def replace(case: Case) -> None:
    await case.start("replace", key="once")


async def claim(case: Case) -> None:
    await case.claim("the dying")


async def abort(case: Case) -> None:
    await case.aborter.abort(case.run_id)


async def finish(case: Case) -> None:
    control, state = await case.control()
    await ending.finish(case.operations, control, fold=Content(), top=state.top, reason=Reason.COMPLETED)


async def hand_over(case: Case) -> None:
    control, state = await case.control()
    await recovery.hand_over(case.operations, control, fold=Content(), top=state.top, cause="shutdown")


async def recover(case: Case) -> None:
    _, state = await case.control()
    await recovery.recover(case.operations, case.run_id, state, sealer="the dying")


async def pause(case: Case, window_ms: int = 3_600_000) -> None:
    control, state = await case.control()
    question = actions.Question(question_id="q", text="?")
    action = actions.Action(
        action_id="ask", kind="question", questions=(question,), expires_ms=now_ms() + window_ms
    )
    wait = PAUSE.of(
        control,
        nonce=ids.nonce(),
        top=state.top,
        spec=state.spec,
        action=action,
        fold=Content(),
        checkpoint=b"state",
        settings=case.settings,
    )
    await case.operations.perform(wait, notify=nobody)


async def resume(case: Case) -> None:
    answers = [{"question_id": "q", "text": "yes"}]
    request = actions.ResumeRequest.model_validate({"action_id": "ask", "answers": answers})
    await resuming.resume(case.operations, case.run_id, request)


async def expire(case: Case) -> None:
    await resuming.expire(case.operations, case.run_id, sealer="the dying")


async def steer(case: Case) -> None:
    """Say something; the same thing, when it is said again."""
    _, state = await case.control()
    request = steering.parse_request({"text": "stop it", "input_id": "once"})
    await steering.send(case.operations, state.spec, request=request, by=case.user)


async def sweep(case: Case) -> None:
    """Check every run that is unfinished, as a sweeper does."""
    client = case.store.client
    await listed.put(client, "active", dict.fromkeys(await listed.scores(client, "active"), 0))
    await Sweeper(operations=case.operations, owner=lambda: "the dying").sweep()


async def kill(case: Case) -> None:
    await aborting.end_by_force(case.aborter, case.run_id)


async def finished(case: Case) -> None:
    await running(case)
    await finish(case)


async def fork(case: Case) -> None:
    """Fork the thread; the same new one, when it is forked again."""
    await forking.fork_thread(
        case.operations,
        conversations.Query(tenant="default", thread_id=case.user),
        forking.Point(),
        principal=Principal(user_id=case.user),
        thread_id=f"fork of {case.user}",
    )


async def delete(case: Case) -> None:
    try:
        await Deleter(aborter=case.aborter, wait_s=0.0).delete_thread(
            case.user, tenant="default", user_id=case.user
        )
    except errors.NotFound:
        assert await case.store.client.zcard(keys.thread_runs("default", case.user)) == 0


PAIRS: dict[str, tuple[Action, Action, bool]] = {
    "start": (nothing, start, True),
    "enqueue": (running, enqueue, True),
    "replace a queued run": (queued, replace, True),
    "replace a running run": (running, replace, True),
    "replace a paused run": (paused, replace, True),
    "claim": (queued, claim, False),
    "abort a queued run": (queued, abort, True),
    "abort a running run": (running, abort, True),
    "abort a lost run": (lost, abort, True),
    "abort a paused run": (paused, abort, True),
    "kill a queued run": (queued, kill, True),
    "kill a running run": (running, kill, True),
    "kill a paused run": (paused, kill, True),
    "finish": (running_with_another_behind, finish, False),
    "hand over": (running, hand_over, False),
    "recover a lost run": (lost, recover, False),
    "pause": (running, pause, False),
    "resume": (paused, resume, True),
    "steer": (running, steer, True),
    "expire": (expired, expire, False),
    "fork": (finished, fork, True),
    "delete": (running_with_another_behind, delete, True),
    "sweep a free thread": (behind_a_run_that_is_gone, sweep, False),
}
"""What is there before, what is done, and whether it is a client's call, to be made again after the crash."""


async def test_every_operation_is_among_them(store: Store):
    """An operation that is registered and crashes in no case here would be one that nobody tried."""
    performed: set[str] = set()
    for pair, (before, act, _) in PAIRS.items():
        case = Case(store=store, messages=dying_process.Messages(), user=pair)
        await before(case)
        case.performed.clear()
        await act(case)
        performed |= case.performed
    assert performed == set(TRANSITIONS)


@pytest.mark.parametrize("pair", PAIRS)
async def test_whoever_dies_between_two_writes_leaves_nothing_behind(store: Store, pair: str):
    """Wherever the process dies: a minute of sweeps later nothing waits in vain; asking again then works."""
    before, act, is_repeatable = PAIRS[pair]
    for commands in range(MOST_COMMANDS):
        case = Case(store=store, messages=dying_process.Messages(), user=f"{pair} {commands}")
        await before(case)
        survived = await dies_after(commands, case, act)
        await heal(case)
        await check(case)
        if is_repeatable:
            await act(case)
            await heal(case)
            await check(case)
        await store.client.flushdb()
        if survived:
            assert commands > 2, "it died nowhere"
            return
    raise AssertionError("it never came to its end")


async def dies_after(commands: int, case: Case, act: Action) -> bool:
    """Have the operation performed by a process that dies after so many commands; True if it lived on."""
    life = dying_process.Life(commands)
    theirs = Case(
        store=dying_process.store(case.store.url, life),
        messages=dying_process.Messages(life, case.messages.published),
        user=case.user,
        run_id=case.run_id,
        owner=case.owner,
    )
    try:
        await act(theirs)
    except dying_process.Died:
        return False
    else:
        return True
    finally:
        life.left = 1000
        await theirs.store.close()


async def heal(case: Case) -> None:
    """Let a minute of sweeps pass: of what is due by then."""
    sweeper = Sweeper(operations=case.operations, owner=lambda: "the healer")
    client = case.store.client
    await client.set(keys.lease("the healer"), "worker", px=v.LIVE_MS)
    await client.zadd(keys.WORKERS, {"the healer": now_ms()})
    for _ in range(SWEEPS):
        looks = await listed.scores(client, "active")
        due = [run_id for run_id, at in looks.items() if at <= now_ms() + HEALED_MS]
        await listed.put(client, "active", dict.fromkeys(due, 0))
        await client.delete(keys.SWEEP)
        await sweeper.sweep()


async def check(case: Case) -> None:
    """Nothing waits for somebody who will never come, and no index names what is not there."""
    records = {
        key.decode(): await record_of(case, key) async for key in case.store.client.scan_iter("*:record")
    }
    active = set(await listed.scores(case.store.client, "active"))
    at_work: set[str] = set()
    for key, record in records.items():
        run_id = "_".join(key.removesuffix(":record").split(":")[-2:])
        status = Status(record["status"])
        await check_log(case, run_id, status)
        if status.is_terminal:
            assert run_id not in active
            continue
        active.remove(run_id)
        await check_unfinished(case, run_id, status, record)
        if status is not Status.REQUIRES_ACTION:
            at_work.add(run_id)
    assert active == set(), "an index names runs that are not there"
    await check_slots(case, at_work)


async def record_of(case: Case, key: bytes) -> dict[str, str]:
    record = await case.store.client.hgetall(key)
    return {name.decode(): value.decode() for name, value in record.items()}


async def check_unfinished(case: Case, run_id: str, status: Status, record: dict[str, str]) -> None:
    client = case.store.client
    letters = await client.xrange(keys.mailbox(case.owner)) if case.owner else []
    if "stop_reason" in record:
        assert status is Status.RUNNING, "nobody executes it, and it was to be stopped"
        assert any(run_id in mail[b"m"].decode() for _, mail in letters), "its owner was not told"
    if int(record.get("inputs", 0)):
        assert any(run_id in mail[b"m"].decode() for _, mail in letters), "its owner does not hear of it"
    if status is Status.RUNNING:
        assert await client.exists(keys.lease(record["owner"])), "its owner is dead"
        assert await client.sismember(keys.owned(record["owner"]), run_id)
    elif record.get("waiting") == "worker":
        assert run_id in case.messages.published, "no worker will ever hear of it"
        assert "published" in record
    elif record.get("waiting") == "thread":
        holder = (await client.hget(keys.run(run_id).thread, "active")).decode()
        assert await client.hget(keys.run(holder).record, "status") in {
            b"queued", b"running", b"requires_action",
        }  # fmt: skip
        assert run_id.encode() in await client.lrange(keys.run(run_id).thread_queue, 0, -1)


async def check_log(case: Case, run_id: str, status: Status) -> None:
    """One end at most, nothing after it, and no hole."""
    found = await case.store.client.xrange(keys.run(run_id).log)
    entries = [events.entry(raw_id, fields) for raw_id, fields in found]
    ends = [entry.type == "run.finished" for entry in entries]
    assert ends.count(True) == int(status.is_terminal)
    assert ends[-1] is status.is_terminal
    assert all(later.follows(earlier.cursor) for earlier, later in itertools.pairwise(entries))


async def check_slots(case: Case, at_work: set[str]) -> None:
    """What a refusal would count, once it has verified it, is what is at work."""
    slot_key = keys.user_slots("default", case.user)
    taken = await case.store.client.zrange(slot_key, 0, -1)
    whose = specs.spec(case.run_id, user_id=case.user)
    await quotas.drop_stale(case.store, whose, {run_id.decode(): 0 for run_id in taken})
    left = {run_id.decode() for run_id in await case.store.client.zrange(slot_key, 0, -1)}
    assert left == at_work
