"""Performs a transition in four steps: make the run findable, run the verb, tidy indexes, notify.

A verb changes a run and its bucket's indexes at once: whoever heals a crash finds the run by a sweeper's
look. Its user's and its owner's lists, its owner's mailbox and the broker are elsewhere; the record is the
truth, and a process may die between any two writes. So the lists come first, then the verb, then the lists
are tidied (best effort), then whoever must act is told. `Operations.perform` does all of it; the
transitions are registered here, and each has a crash test (`tests/integration/operations/test_crashes.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from mainstem_shared import errors, transitions
from mainstem_shared.blobs.files import Files
from mainstem_shared.coordination import outbox
from mainstem_shared.model.actions import Action
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.operations.admission import Admission
from mainstem_shared.operations.callback_hints import Hints
from mainstem_shared.operations.indexes import Indexes
from mainstem_shared.operations.lost_changes import RecentChanges
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import Control

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Run = str | Spec | Control
"""What a verb's function takes to name its run."""

ROUNDS: Final = 20
"""Control may change hands while we act; each round somebody else made progress."""


class IndexedTransition(Generic[P, R]):
    """A transition with the index writes around it, made once, below; `of` binds it to a run."""

    def __init__(
        self,
        verb: Callable[Concatenate[Store, P], Awaitable[R]],
        *,
        name: str,
        found_by: str,
        prepare: Callable[..., Awaitable[None]] | None = None,
        tidy: Callable[..., Awaitable[None]] | None = None,
    ) -> None:
        """Register the transition.

        Args:
            verb: the function in `transitions`, or one here that calls it.
            name: the verb's.
            found_by: how a healer finds the run if the process dies after the verb.
            prepare: makes it findable before: gets the indexes and the verb's arguments. None: it is already.
            tidy: brings the indexes in line after: gets the indexes, the verb's answer and its arguments.
        """
        self.name = name
        self.found_by = found_by
        self.verb = verb
        self._prepare = prepare
        self._tidy = tidy
        TRANSITIONS[name] = self

    def of(self, *args: P.args, **kwargs: P.kwargs) -> BoundTransition[R]:
        """Bind the verb's arguments, the run first; `Operations.perform` performs it."""
        prepare, tidy = self._prepare, self._tidy
        return BoundTransition(
            name=self.name,
            run_id=_id_of(args[0]),
            prepare=lambda indexes: prepare(indexes, *args, **kwargs) if prepare else _nothing(),
            verb=lambda store: self.verb(store, *args, **kwargs),
            tidy=lambda indexes, answer: tidy(indexes, answer, *args, **kwargs) if tidy else _nothing(),
            arguments=kwargs,
            bound=lambda **other: self.of(*args, **{**kwargs, **other}),  # type: ignore[arg-type]
        )


TRANSITIONS: Final[dict[str, IndexedTransition[Any, Any]]] = {}
"""Every transition that is performed with index writes, by its verb's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTransition(Generic[R]):
    """A transition of one run with its arguments, ready to be performed."""

    name: str
    run_id: str
    prepare: Callable[[Indexes], Awaitable[None]]
    verb: Callable[[Store], Awaitable[R]]
    tidy: Callable[[Indexes, R], Awaitable[None]]
    arguments: dict[str, Any]
    bound: Callable[..., BoundTransition[R]]
    """The same, but for some arguments."""


def repair(
    control: Control, *, nonce: str, state: bytes, live_ttl_ms: int
) -> BoundTransition[int | transitions.Refused | transitions.Gone]:
    """Return the repair of a log, which its writer made beside the operations, as one to be made again."""
    given: dict[str, Any] = {"nonce": nonce, "state": state, "live_ttl_ms": live_ttl_ms}

    def bound(**other: Any) -> BoundTransition[int | transitions.Refused | transitions.Gone]:
        return repair(control, **{**given, **other})

    return BoundTransition(
        name=transitions.RESYNC.name,
        run_id=control.run_id,
        prepare=_nothing,
        verb=lambda store: transitions.resync(store, control, **given),
        tidy=_nothing,
        arguments=given,
        bound=bound,
    )


async def _nothing(*_: object) -> None:
    """Do nothing: the transition needs no such step."""


async def nobody(_: object) -> None:
    """Notify nobody: no other process has to act."""


@dataclass(frozen=True)
class Operations:
    """Performs a process's transitions: with its store, its settings and its publisher."""

    store: Store
    settings: Settings
    publisher: outbox.Publisher

    @cached_property
    def indexes(self) -> Indexes:
        """The indexes beside the store's records."""
        return Indexes(store=self.store, settings=self.settings)

    @cached_property
    def admission(self) -> Admission:
        """The windows of admitted runs (`MAINSTEM_FAIR_SHARE`)."""
        return Admission(self.store, self.settings)

    @cached_property
    def files(self) -> Files:
        """What is stored beside runs."""
        return Files(self.settings)

    @cached_property
    def hints(self) -> Hints:
        """Where this process's courier is told what is due."""
        return Hints()

    @cached_property
    def recent_changes(self) -> RecentChanges:
        """This process's latest transitions, to be repeated if the store loses them."""
        return RecentChanges(self.store, lambda change, notify: self.perform(change, notify=notify))

    async def perform(self, change: BoundTransition[R], *, notify: Callable[[R], Awaitable[None]]) -> R:
        """Perform a transition; returns the verb's answer. May be repeated as far as the verb may.

        `notify` tells whoever must act on the answer (a worker by the broker, an owner by mail); what it
        raises reaches the caller, who knows what it may guarantee. `nobody`: nobody must act.

        Raises:
            StoreUnavailable: performed or not; if it was, a healer finds the run.
        """
        await change.prepare(self.indexes)
        answer = await change.verb(self.store)
        self.recent_changes.note(change, answer, notify)
        if getattr(answer, "deliveries", 0):
            self.hints.add(keys.run(change.run_id).callbacks_due)
        await self._tidy(change, answer)
        if self.settings.fair_share and _needs_no_place(change.name, answer):
            await self._readmit(self.admission.leave([change.run_id]))
        await notify(answer)
        return answer

    async def _tidy(self, change: BoundTransition[R], answer: R) -> None:
        """Bring the indexes in line with a transition that stands: whatever fails here, it does not."""
        try:
            await change.tidy(self.indexes, answer)
        except Exception:  # the caller must not take this for a failure of the verb; readers drop what stays
            noted = {"action": "indexes_lag", "run_id": change.run_id, "operation": change.name}
            logger.warning("indexes lag behind", extra=noted, exc_info=True)

    async def deliver(self, run_id: str) -> bool:
        """Publish the message of a queued run; False if that must be tried again later, by a sweeper."""
        try:
            state = await transitions.read(self.store, run_id)
        except errors.StoreUnavailable:
            logger.warning("a message waits for the store", extra={"action": "deliver", "run_id": run_id})
            return False
        if isinstance(state, transitions.Gone) or state.status is not Status.QUEUED:
            return False
        spec = state.spec
        parents = outbox.parent_tasks_of(spec, state.record)
        return await self.publish(spec, parents=parents, had_turn=state.record.segment > 0)

    async def publish(
        self, spec: Spec, *, parents: outbox.ParentTasks | None, had_turn: bool = False
    ) -> bool:
        """Publish a queued run's message; False if that must be tried again later, by a sweeper.

        With a fair share, a run for which there is no place is published by whoever frees one. `had_turn`: a
        worker had it before.
        """
        if not self.settings.fair_share:
            return await self._send(spec, parents=parents)
        try:
            offered = await self.admission.offer(spec, had_turn=had_turn)
        except errors.StoreUnavailable:
            noted = {"action": "admit", "run_id": spec.run_id}
            logger.warning("A queued run waits for its place", extra=noted, exc_info=True)
            return False
        sent = offered.ahead is not None or await self._send(spec, parents=parents)
        await self._send_all([run_id for run_id in offered.fresh if run_id != spec.run_id])
        return sent

    async def readmit(self) -> None:
        """Take back places of runs that are over, and publish the runs that get them."""
        if self.settings.fair_share:
            await self._readmit(self.admission.verify())

    async def _readmit(self, decision: Awaitable[Sequence[str]]) -> None:
        """Publish the runs that get places; what fails here, a sweeper does."""
        try:
            await self._send_all(await decision)
        except errors.Unavailable:
            logger.warning("places are not given on", extra={"action": "readmit"}, exc_info=True)

    async def _send_all(self, run_ids: Sequence[str]) -> None:
        for run_id in run_ids:
            state = await transitions.read(self.store, run_id)
            if not isinstance(state, transitions.Gone) and state.status is Status.QUEUED:
                await self._send(state.spec, parents=outbox.parent_tasks_of(state.spec, state.record))

    async def _send(self, spec: Spec, *, parents: outbox.ParentTasks | None) -> bool:
        return await outbox.deliver(
            self.store,
            self.publisher,
            run_id=spec.run_id,
            user_id=spec.user_id,
            engine=spec.engine,
            parents=parents,
        )


class AttemptLimit:
    """Bounds the attempts of a caller whose view of a run was outdated."""

    def __init__(self) -> None:
        self._left = ROUNDS

    def begin(self) -> None:
        """Begin an attempt.

        Raises:
            StoreUnavailable: so many were overtaken that something is wrong.
        """
        if self._left == 0:
            raise contended()
        self._left -= 1


def contended() -> errors.StoreUnavailable:
    """Return the failure of a caller whose view of a run was outdated in every attempt."""
    return errors.StoreUnavailable("The run's control kept changing hands; try again.")


# -- how a run is made findable, and what follows a verb in the indexes


def _id_of(run: object) -> str:
    return run if isinstance(run, str) else run.run_id  # type: ignore[attr-defined]


async def _list_new(indexes: Indexes, spec: Spec, *_: Any, **__: Any) -> None:
    await indexes.add(spec)


async def _after_start(indexes: Indexes, answer: object, spec: Spec, *_: Any, **__: Any) -> None:
    # Those of an id that exists belong to the run that does exist.
    if not isinstance(answer, transitions.Started | transitions.Exists):
        await indexes.refused(spec)


async def _after_copy(indexes: Indexes, answer: object, spec: Spec, *_: Any, **__: Any) -> None:
    if not answer:
        await indexes.refused(spec)


async def _own_claimed(
    indexes: Indexes, run_id: str, *, owner: str, patience_s: float | None = None, **_: Any
) -> None:
    await indexes.own(owner, run_id, patience_s=patience_s)


async def _after_claim(indexes: Indexes, answer: object, run_id: str, *, owner: str, **_: Any) -> None:
    if isinstance(answer, IncarnationEnded):
        await indexes.disown(owner, run_id)


async def _own_sealed(indexes: Indexes, run_id: str, *, sealer: str, **_: Any) -> None:
    await indexes.own(sealer, run_id)


async def _after_seal(indexes: Indexes, answer: object, run_id: str, *, sealer: str, **_: Any) -> None:
    """Take a run off the list of a process that came too late to seal it, unless it has the run by now."""
    if isinstance(answer, Control):
        return
    record = await transitions.read_fields(indexes.store, run_id, Record.owner)
    if isinstance(record, transitions.Gone) or (record.status, record.owner) != (Status.RUNNING, sealer):
        await indexes.disown(sealer, run_id)


async def _after_handover(indexes: Indexes, answer: object, control: Control, **_: Any) -> None:
    if isinstance(answer, int):
        await indexes.disown(control.owner, control.run_id)


async def _after_pause(
    indexes: Indexes, answer: object, control: Control, *, spec: Spec, action: Action, **_: Any
) -> None:
    if isinstance(answer, transitions.Paused):
        await indexes.paused(spec, owner=control.owner, expires_ms=action.expires_ms)


async def _after_finish(indexes: Indexes, answer: object, control: Control, **_: Any) -> None:
    if isinstance(answer, transitions.Finished):
        await indexes.finished(control.run_id, owner=control.owner)


async def _after_forget(
    indexes: Indexes, answer: object, run_id: str, *, owner: tuple[str, str | None], **_: Any
) -> None:
    if answer:
        tenant, user_id = owner
        await indexes.deleted(run_id, tenant=tenant, user_id=user_id)


def _needs_no_place(name: str, answer: object) -> bool:
    """Tell whether a transition took its run from the workers: it ended, waits for something, or is gone."""
    is_over = isinstance(answer, transitions.Finished | transitions.Already | transitions.Paused)
    return is_over or (name == "forget" and answer is True)


# -- verbs that need more than their script


@dataclass(frozen=True, slots=True, kw_only=True)
class IncarnationEnded:
    """The caller was suspended while it prepared a claim: its incarnation has ended, so it claims nothing."""


async def _claim(
    store: Store,
    run_id: str,
    *,
    nonce: str,
    owner: str,
    is_current: Callable[[], bool],
    task_id: str,
    live_ttl_ms: int,
    patience_s: float | None = None,
) -> (
    transitions.Claimed
    | transitions.Refused
    | transitions.Newer
    | transitions.Stopping
    | transitions.Gone
    | IncarnationEnded
):
    """Claim a run, unless the owner's list is one by now that nobody looks after."""
    if not is_current():
        return IncarnationEnded()
    return await transitions.claim(
        store,
        run_id,
        nonce=nonce,
        owner=owner,
        task_id=task_id,
        live_ttl_ms=live_ttl_ms,
        patience_s=patience_s,
    )


async def _forget(
    store: Store, run_id: str, *, owner: tuple[str, str | None], keep_memory: bool = False
) -> bool:
    """Remove a run's keys; `owner` (tenant, and user where known) tells which lists it is on."""
    del owner
    if not await transitions.forget(store, run_id, keep_memory=keep_memory):
        return False  # it goes on, and so does its budget
    await store.command("UNLINK", keys.run_spending(run_id), keys.run_children(run_id))
    return True


# -- the operations

START: Final = IndexedTransition(
    transitions.start,
    name="start",
    found_by="its first check; the run that it replaces by an early check",
    prepare=_list_new,
    tidy=_after_start,
)
CLAIM: Final = IndexedTransition(
    _claim, name="claim", found_by="its owner's list", prepare=_own_claimed, tidy=_after_claim
)
SEAL: Final = IndexedTransition(
    transitions.seal,
    name="seal",
    found_by="the list of its new owner, who seals it",
    prepare=_own_sealed,
    tidy=_after_seal,
)
STOP: Final = IndexedTransition(transitions.stop, name="stop", found_by="an early check")
STEER: Final = IndexedTransition(transitions.steer, name="steer", found_by="an early check")
PAUSE: Final = IndexedTransition(
    transitions.pause,
    name="pause",
    found_by="a check when its action expires",
    tidy=_after_pause,
)
RESOLVE: Final = IndexedTransition(transitions.resolve, name="resolve", found_by="an early check")
HANDOVER: Final = IndexedTransition(
    transitions.handover,
    name="handover",
    found_by="an early check",
    tidy=_after_handover,
)
FINISH: Final = IndexedTransition(
    transitions.finish,
    name="finish",
    found_by="nobody has to; the run that the thread goes to by an early check",
    tidy=_after_finish,
)
COPY: Final = IndexedTransition(
    transitions.copy,
    name="copy",
    found_by="nobody has to: it is over; whoever forks repeats the call for the rest",
    prepare=_list_new,
    tidy=_after_copy,
)
PROMOTE: Final = IndexedTransition(
    transitions.promote, name="promote", found_by="an early check of the run that the thread goes to"
)
FORGET: Final = IndexedTransition(
    _forget,
    name="forget",
    found_by="nobody has to: entries of a run that is gone are dropped by whoever reads them",
    tidy=_after_forget,
)

WITHOUT_PROTOCOL: Final = {
    "snapshot": "the owner's: it changes neither what is to be done nor by whom",
    "resync": "the owner's: it changes neither what is to be done nor by whom",
    "checkpoint": "the owner's: it changes neither what is to be done nor by whom",
    "inbox": "the owner's: it changes neither what is to be done nor by whom",
    "describe": "changes what people say about a run, nothing about its life",
    "published": "notes that a notification went out",
    "effect": "the owner's: it changes neither what is to be done nor by whom",
    "keep_event": "changes no run: it keeps what happened elsewhere",
    "enlist": "lists a run before its pause, or its start, which a sweeper finds",
    "erase": "removes what engines keep on a thread that has no run any more",
    "compact": "gives back memory of a run that is over",
    "release": "lets go of a run that is over, once the archive has it",
    "set_callback": "changes who is told of a run, nothing about its life",
    "note_attempt": "notes the outcome of a delivery attempt",
    "redeliver": "makes a run's callbacks due once more",
    "drop_callbacks": "drops a run's deliveries",
    "admit": "changes which runs may be published, and no run",
    "take_slot": "changes a count, not a run",
    "reserve": "changes an account, not a run",
    "settle": "changes an account, not a run",
    "draw": "decides when a provider is called, and changes no run",
    "correct": "decides when a provider is called, and changes no run",
    "shut": "decides when a provider is called, and changes no run",
    "take_due": "postpones a check, a compaction, or a callback, while its sweeper is at it",
    "read": "writes nothing",
    "page": "writes nothing",
    "dump": "writes nothing",
    "move": "changes where a thread at rest is kept, and nothing that its runs are",
}
"""Scripts that are no operation, and why."""
