"""A state of the world: one database, and what each actor knows. Actors act through the product's own functions.

`moves` lists everything that may happen next: a verb called by a worker, a user, a sweeper or a decider
(`transitions.claim`, …), or an append by a worker's real `Channel`. Each call may be lost on its way back (its
caller then repeats it with the same nonce), its caller may crash, and the store may fail over to an earlier
state of its own. What a scenario's budget does not allow is not listed, which keeps the number of states finite.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import hiredis

from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.channels import Channel, Phase
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations import ending
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from model.redis_in_process import CommandError, Database
from model.scripts import InProcessStore, Interpreter, drive, encoded
from support.models.specs import spec

TTL_MS: Final = 10**9
SETTINGS: Final = Settings()
WINDOW_MS: Final = 10**12
"""A pending action's end: never reached, time stands still."""


class Violation(AssertionError):
    """An invariant does not hold."""


class _Host:
    """A writer that does nothing by itself: the exploration decides when things are sent."""

    url = ""

    def moved(self, channel: Channel) -> None: ...
    def mark(self, channel: Channel) -> None: ...
    def retry_later(self, channel: Channel) -> None: ...
    def probe(self, channel: Channel) -> None:
        channel.phase = Phase.PROBING

    def reconnect(self) -> None: ...
    def resync(self, channel: Channel) -> None: ...
    def snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None: ...
    def patch(self, channel: Channel, cursor: Cursor, text: bytes, patch: Any) -> None: ...
    def forget(self, channel: Channel) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker process. `calling`: the verb whose reply it waits for, called again until one comes."""

    name: str
    life: int = 1
    calling: str = ""
    calls: int = 0
    channel: Channel | None = None

    @property
    def owner(self) -> str:
        return f"{self.name}{self.life}"

    @property
    def nonce(self) -> str:
        return f"{self.owner}.{self.calls}"

    def fingerprint(self) -> tuple[Any, ...]:
        channel = self.channel
        known = channel and (
            channel.phase.name,
            channel.control,
            channel.acknowledged,
            channel.group and channel.group.packed,
            len(channel._pending),
            channel.fold.text,
        )
        return (self.name, self.life, self.calling, self.calls, known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeper:
    """A process that ends a run which it believes to be lost: seal, read, finish."""

    stage: str = ""
    control: transitions.Control | None = None
    """Of the owner whose run it takes; then its own."""
    calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often each thing may happen in one history."""

    claims: int = 2
    emits: int = 1
    pauses: int = 1
    handovers: int = 1
    finishes: int = 9
    checkpoints: int = 0
    seals: int = 1
    stops: int = 1
    decisions: int = 2
    lost_replies: int = 1
    crashes: int = 1
    failovers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One state. `past`: earlier states of the store that a fail-over may go back to."""

    database: Database
    workers: tuple[Worker, ...]
    sweeper: Sweeper = field(default_factory=Sweeper)
    budget: Budget
    past: tuple[Database, ...] = ()
    went_back: bool = False
    """Whether the store has lost writes that somebody was told of."""

    def fingerprint(self) -> int:
        """Return a number that equal states share; different ones do so once in 10^19."""
        workers = tuple(worker.fingerprint() for worker in self.workers)
        past = tuple(database.fingerprint() for database in self.past)
        return hash((self.database.fingerprint(), workers, self.sweeper, self.budget, past, self.went_back))


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What happens next, in words, and the world afterwards."""

    label: str
    world: World


VERBS_OF_A_HOLDER: Final = (
    ("finish", "finishes"),
    ("pause", "pauses"),
    ("handover", "handovers"),
    ("checkpoint", "checkpoints"),
)
"""What a worker in control may call, and what of its budget that takes."""
RUN: Final = ids.run_id("default", "t", uuid.UUID(int=1))
ACTION: Final = Action(
    action_id="ask",
    kind="question",
    questions=(Question(question_id="q", text="?"),),
    expires_ms=WINDOW_MS,
)


class Machine:
    """Executes moves. One interpreter serves all states: its database is exchanged before each call."""

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self._interpreter = interpreter or Interpreter()
        self.store = InProcessStore(self._interpreter)
        self.spec = spec(RUN, thread_id="t")
        self.calls = 0
        self._known: dict[tuple[Any, ...], tuple[Database, Any]] = {}

    def begin(self, budget: Budget, *, workers: str = "AB") -> World:
        """Return the world in which the run was just started."""
        database = Database()
        database.lose_nothing = True
        self._interpreter.database = database
        started = drive(
            transitions.start(
                self.store,
                self.spec,
                b"{}",
                nonce="start",
                if_active="reject",
                live_ttl_ms=TTL_MS,
                thread_ttl_ms=TTL_MS,
            )
        )
        assert isinstance(started, transitions.Started)
        return World(database=database, workers=tuple(Worker(name=name) for name in workers), budget=budget)

    # -- calls

    def _on(self, world: World, call: Callable[[InProcessStore], Any], *by: object) -> tuple[Database, Any]:
        """Call a verb on a copy of the world's database. `by` names call and caller: the same is called once."""
        key = (world.database.fingerprint(), by)
        if key not in self._known:
            self.calls += 1
            database = self._interpreter.database = world.database.copy()
            self._known[key] = database, drive(call(self.store))
        return self._known[key]

    def moves(self, world: World) -> Iterator[Move]:
        """List everything that may happen next.

        Raises:
            Violation: a step is wrong by itself: somebody else than the owner wrote.
        """
        for index, worker in enumerate(world.workers):
            yield from self._worker(world, index, worker)
        yield from self._sweeper(world)
        yield from self._users(world)
        yield from self._failover(world)

    # -- workers

    def _worker(self, world: World, index: int, worker: Worker) -> Iterator[Move]:
        budget = world.budget
        if worker.calling:
            yield from self._call(world, index, worker, worker.calling)
        elif worker.channel is None or worker.channel.phase is Phase.LOST:
            idle = replace(worker, channel=None)
            if budget.claims:
                spent = replace(world, budget=replace(budget, claims=budget.claims - 1))
                yield from self._call(spent, index, idle, "claim")
        else:
            yield from self._holder(world, index, worker, worker.channel)
        if budget.crashes and (worker.calling or worker.channel is not None):
            reborn = Worker(name=worker.name, life=worker.life + 1)
            spent = replace(world, budget=replace(budget, crashes=budget.crashes - 1))
            yield Move(label=f"{worker.owner} crashes", world=_with(spent, index, reborn))

    def _holder(self, world: World, index: int, worker: Worker, channel: Channel) -> Iterator[Move]:
        budget = world.budget
        match channel.phase:
            case Phase.PROBING:
                yield self._probe(world, index, worker)
            case Phase.RESYNC:
                yield from self._call(world, index, worker, "resync")
            case Phase.OPEN | Phase.WAITING:
                if channel.ready:
                    yield from self._send(world, index, worker)
                    return
                if budget.emits:
                    yield self._emit(
                        replace(world, budget=replace(budget, emits=budget.emits - 1)), index, worker
                    )
                for verb, name in VERBS_OF_A_HOLDER:
                    if left := getattr(budget, name):
                        spent = replace(world, budget=replace(budget, **{name: left - 1}))
                        yield from self._call(spent, index, worker, verb)
            case _:
                raise AssertionError(channel.phase)

    def _emit(self, world: World, index: int, worker: Worker) -> Move:
        channel = copy.deepcopy(worker.channel)
        assert channel is not None
        channel.text(Type.MESSAGE_DELTA, worker.owner)
        return Move(
            label=f"{worker.owner} emits", world=_with(world, index, replace(worker, channel=channel))
        )

    def _send(self, world: World, index: int, worker: Worker) -> Iterator[Move]:
        """Append the channel's next group: it lands or not, and its reply comes back or not."""
        for landed, heard in ((True, True), (True, False), (False, False)):
            if not heard and not world.budget.lost_replies:
                continue
            channel = copy.deepcopy(worker.channel)
            assert channel is not None
            group = channel.next_group()
            database = self._interpreter.database = world.database.copy()
            reply = self._append(database, worker, channel, group.packed) if landed else None
            budget = world.budget
            if not heard:
                budget = replace(budget, lost_replies=budget.lost_replies - 1)
            channel.replied([reply] if heard else [])
            after = replace(world, database=database, budget=budget, past=_past(world))
            words = "lands" if heard else "lands unheard" if landed else "is lost"
            yield Move(
                label=f"{worker.owner}'s append {words}: {group.last}",
                world=_with(after, index, replace(worker, channel=channel)),
            )

    def _append(self, database: Database, worker: Worker, channel: Channel, packed: bytes) -> Any:
        reader = hiredis.Reader()
        reader.feed(packed)
        self.calls += 1
        try:
            name, *args = reader.gets()
            reply = database.call(name.decode(), *args)
        except CommandError as error:
            return hiredis.ReplyError(str(error))
        if reply is not None:
            record = database.data[keys.run(RUN).record]
            if (record.get("owner"), int(record["epoch"])) != (worker.owner, channel.control.epoch):
                raise Violation(
                    f"{worker.owner} wrote {reply} in epoch {channel.control.epoch}; the record has "
                    f"{record.get('owner')} in {record['epoch']}"
                )
        return None if reply is None else reply.encode()

    def _probe(self, world: World, index: int, worker: Worker) -> Move:
        channel = copy.deepcopy(worker.channel)
        assert channel is not None
        channel.probed(_probe(world.database))
        return Move(
            label=f"{worker.owner} probes: {channel.phase.name.lower()}",
            world=_with(world, index, replace(worker, channel=channel)),
        )

    def _call(self, world: World, index: int, worker: Worker, verb: str) -> Iterator[Move]:
        """Call a verb: its reply comes, or is lost, and the worker will call again."""
        database, answer = self._on(
            world, lambda store: getattr(self, f"_{verb}_call")(store, worker), verb, worker.fingerprint()
        )
        _only_in_control(world, worker, verb, answer)
        after = replace(world, database=database, past=_past(world))
        heard = getattr(self, f"_{verb}_answered")(
            replace(worker, calling="", calls=worker.calls + 1), answer
        )
        words = type(answer).__name__.lower()
        yield Move(label=f"{worker.owner} {verb}: {words}", world=_with(after, index, heard))
        if world.budget.lost_replies:
            spent = replace(after, budget=replace(world.budget, lost_replies=world.budget.lost_replies - 1))
            waiting = replace(worker, calling=verb)
            yield Move(label=f"{worker.owner} {verb} unheard: {words}", world=_with(spent, index, waiting))

    async def _claim_call(self, store: InProcessStore, worker: Worker) -> Any:
        claimed = await transitions.claim(
            store, RUN, nonce=worker.nonce, owner=worker.owner, task_id="task", live_ttl_ms=TTL_MS
        )
        if not isinstance(claimed, transitions.Claimed):
            return claimed
        control = transitions.Control(
            run_id=RUN, epoch=claimed.epoch, owner=worker.owner, nonce=claimed.nonce
        )
        state = await transitions.read(store, RUN)
        assert isinstance(state, transitions.State)
        return Channel(_Host(), control, ending.fold_of(state))

    def _claim_answered(self, worker: Worker, answer: Any) -> Worker:
        return replace(worker, channel=answer) if isinstance(answer, Channel) else worker

    def _finish_call(self, store: InProcessStore, worker: Worker) -> Any:
        channel = worker.channel
        assert channel is not None
        return transitions.finish(
            store,
            channel.control,
            nonce=worker.nonce,
            top=channel.acknowledged,
            reason=Reason.COMPLETED,
            state=channel.fold.dump(),
            error=None,
            retention_ms=TTL_MS,
            compact_after_ms=60_000,
            memory=self._memory(channel),
        )

    def _memory(self, channel: Channel) -> Changes:
        """Return what an engine remembers that remembers what it has said."""
        said = channel.fold.text.encode()
        return Changes(engine=self.spec.engine, values={"said": said}, size=len(said), ttl_ms=TTL_MS)

    def _checkpoint_call(self, store: InProcessStore, worker: Worker) -> Any:
        channel = worker.channel
        assert channel is not None
        return transitions.checkpoint(
            store,
            channel.control,
            cursor=channel.acknowledged,
            state=b"state",
            fold=jsontext.dumps(channel.fold.dump()),
            live_ttl_ms=TTL_MS,
            memory=self._memory(channel),
        )

    def _checkpoint_answered(self, worker: Worker, answer: Any) -> Worker:
        del answer
        return worker

    def _pause_call(self, store: InProcessStore, worker: Worker) -> Any:
        channel = worker.channel
        assert channel is not None
        return transitions.pause(
            store,
            channel.control,
            nonce=worker.nonce,
            top=channel.acknowledged,
            spec=self.spec,
            action=ACTION.model_copy(update={"action_id": f"ask{channel.control.epoch}"}),
            fold=copy.deepcopy(channel.fold),
            checkpoint=b"state",
            settings=SETTINGS,
            memory=self._memory(channel),
        )

    def _handover_call(self, store: InProcessStore, worker: Worker) -> Any:
        channel = worker.channel
        assert channel is not None
        return transitions.handover(
            store,
            channel.control,
            nonce=worker.nonce,
            top=channel.acknowledged,
            resume_as="run.resumed",
            cause="shutdown",
            state=jsontext.dumps(channel.fold.dump()),
            live_ttl_ms=TTL_MS,
        )

    def _let_go(self, worker: Worker, answer: Any) -> Worker:
        del answer
        return replace(worker, channel=None)

    _finish_answered = _handover_answered = _let_go

    def _pause_answered(self, worker: Worker, answer: Any) -> Worker:
        """Somebody who wanted to stop the run wins: the segment ends it instead."""
        return worker if isinstance(answer, transitions.Stopping) else self._let_go(worker, answer)

    def _resync_call(self, store: InProcessStore, worker: Worker) -> Any:
        channel = worker.channel
        assert channel is not None
        return transitions.resync(
            store,
            channel.control,
            nonce=worker.nonce,
            state=jsontext.dumps(channel.fold.dump()),
            live_ttl_ms=TTL_MS,
        )

    def _resync_answered(self, worker: Worker, answer: Any) -> Worker:
        channel = copy.deepcopy(worker.channel)
        assert channel is not None
        if isinstance(answer, int):
            channel.resynced(answer, nonce=replace(worker, calls=worker.calls - 1).nonce)
        else:
            channel.lose()
        return replace(worker, channel=channel)

    # -- a sweeper: it may be wrong about the owner at any time

    def _sweeper(self, world: World) -> Iterator[Move]:
        sweeper, budget = world.sweeper, world.budget
        record = world.database.data[keys.run(RUN).record]
        if not sweeper.stage:
            if budget.seals and record["status"] == "running":
                owner = transitions.Control(
                    run_id=RUN, epoch=int(record["epoch"]), owner=record["owner"], nonce=record["nonce"]
                )
                looking = Sweeper(stage="seal", control=owner, calls=sweeper.calls)
                spent = replace(budget, seals=budget.seals - 1)
                yield Move(label="S looks", world=replace(world, sweeper=looking, budget=spent))
            return
        nonce, control = f"S.{sweeper.calls}", sweeper.control
        assert control is not None
        if sweeper.stage == "seal":
            database, answer = self._on(
                world,
                lambda store: transitions.seal(
                    store,
                    RUN,
                    nonce=nonce,
                    sealer="S",
                    epoch=control.epoch,
                    control=control.nonce,
                    cause="lost",
                ),
                sweeper,
            )
            sealed = isinstance(answer, transitions.Control)
            following = Sweeper(
                stage="finish" if sealed else "",
                control=answer if sealed else None,
                calls=sweeper.calls + 1,
            )
        else:
            database, answer = self._on(
                world, lambda store: self._sweep_finish(store, control, nonce), sweeper
            )
            following = Sweeper(calls=sweeper.calls + 1)
        words = f"S {sweeper.stage}: {type(answer).__name__.lower()}"
        after = replace(world, database=database, past=_past(world))
        yield Move(label=words, world=replace(after, sweeper=following))
        if budget.lost_replies:
            spent = replace(budget, lost_replies=budget.lost_replies - 1)
            yield Move(label=f"{words} unheard", world=replace(after, budget=spent))

    async def _sweep_finish(self, store: InProcessStore, control: transitions.Control, nonce: str) -> Any:
        state = await transitions.read(store, RUN)
        assert isinstance(state, transitions.State)
        fold = Content() if state.status.is_terminal else ending.fold_of(state)
        return await transitions.finish(
            store,
            control,
            nonce=nonce,
            top=state.top,
            reason=Reason.WORKER_LOST,
            state=fold.dump(),
            error=None,
            retention_ms=TTL_MS,
            compact_after_ms=60_000,
        )

    # -- users

    def _users(self, world: World) -> Iterator[Move]:
        budget = world.budget
        record = world.database.data[keys.run(RUN).record]
        if budget.stops:
            database, answer = self._on(
                world, lambda store: transitions.stop(store, RUN, reason=Reason.USER_ABORT), "stop"
            )
            spent = replace(budget, stops=budget.stops - 1)
            yield Move(
                label=f"a user aborts: {type(answer).__name__.lower()}",
                world=replace(world, database=database, budget=spent, past=_past(world)),
            )
        if budget.decisions and record["status"] == "requires_action":
            for choice in ("yes", "no"):
                database, answer = self._on(
                    world,
                    lambda store, c=choice: self._resolve(store, record, c, budget),
                    choice,
                    budget.decisions,
                )
                spent = replace(budget, decisions=budget.decisions - 1)
                yield Move(
                    label=f"a user says {choice}: {type(answer).__name__.lower()}",
                    world=replace(world, database=database, budget=spent, past=_past(world)),
                )

    def _resolve(self, store: InProcessStore, record: dict[str, str], choice: str, budget: Budget) -> Any:
        return transitions.resolve(
            store,
            RUN,
            nonce=f"D{budget.decisions}{choice}",
            action_id=record["action_id"],
            fingerprint=record["fingerprint"],
            digest=choice,
            decisions={"q": choice},
            kind=Type.APPROVAL_RESOLVED,
            body={"action_id": record["action_id"]},
            live_ttl_ms=TTL_MS,
        )

    # -- the store goes back

    def _failover(self, world: World) -> Iterator[Move]:
        """Lose the newest writes: every connection breaks, so that every channel will probe."""
        if not world.budget.failovers:
            return
        spent = replace(world.budget, failovers=world.budget.failovers - 1)
        for steps, database in enumerate(reversed(world.past), 1):
            workers: list[Worker] = []
            for worker in world.workers:
                channel = copy.deepcopy(worker.channel)
                if channel is not None and channel.phase is not Phase.LOST:
                    if channel.phase in {Phase.OPEN, Phase.WAITING}:
                        channel.phase = Phase.IN_FLIGHT
                    channel.replied([])
                workers.append(replace(worker, channel=channel))
            kept = world.past[: len(world.past) - steps]
            yield Move(
                label=f"the store loses its last {steps} writes",
                world=replace(
                    world,
                    database=database,
                    workers=tuple(workers),
                    budget=spent,
                    past=kept,
                    went_back=True,
                ),
            )


def _only_in_control(world: World, worker: Worker, verb: str, answer: Any) -> None:
    """Refuse that a verb took effect for a worker without control, unless it repeats what it did before."""
    if verb == "claim" or not isinstance(answer, (int, transitions.Finished, transitions.Paused)):
        return
    record = world.database.data[keys.run(RUN).record]
    assert worker.channel is not None
    control = worker.channel.control
    in_control = (record.get("owner"), int(record["epoch"])) == (control.owner, control.epoch)
    if not in_control and record.get("nonce") != worker.nonce:
        raise Violation(
            f"4: {verb} of {worker.owner} in epoch {control.epoch} took effect; the record has {record}"
        )


def _with(world: World, index: int, worker: Worker) -> World:
    workers = (*world.workers[:index], worker, *world.workers[index + 1 :])
    return replace(world, workers=workers)


def _past(world: World) -> tuple[Database, ...]:
    """Return the states that a fail-over may go back to, this one included; none if there will be no fail-over."""
    return (*world.past, world.database)[-4:] if world.budget.failovers else ()


def _probe(database: Database) -> transitions.Probe:
    """Return what the server answers to `probe_command`."""
    replies: list[Any] = []
    reader = hiredis.Reader()
    reader.feed(transitions.probe_command(RUN))
    while (command := reader.gets()) is not False:
        name, *args = command
        if name not in (b"MULTI", b"EXEC"):
            replies.append(encoded(database.call(name.decode(), *args)))
    found = transitions.probed(RUN, [replies])
    assert found is not None
    return found
