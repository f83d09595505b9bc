"""Somebody will look: what must hold in every state so that no run is left alone, and that it is not.

`check` reads a state: each unfinished run is where sweepers look, each thread, queue, delivery, place and account
adds up. `looks` proves the progress: every worker is dead, time passes, and one real `Sweeper` does what is due; it
returns how many looks the runs take to be over.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any, Final

from mainstem_shared import transitions
from mainstem_shared.coordination.outbox import ParentTasks
from mainstem_shared.operations import sweeping
from mainstem_shared.operations.due_work import HOLD_MS
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from model import clock
from model.redis_in_process import NO_EXPIRY, Database, Stream
from model.scripts import InProcessStore, Interpreter, drive

UNFINISHED: Final = frozenset({"queued", "running", "requires_action"})
PERMANENT: Final = (":active", ":recent", ":compact", ":callbacks")
"""How the indexes that live for ever are called; every other key ends by itself."""
SETTINGS: Final = Settings(max_queue_s=600)
LOOKS: Final = 100
"""Looks within which the runs of a thread are over: each is requeued as often as it may be, republished for as long as it may wait."""


class Violation(AssertionError):
    """A sentence does not hold."""


def check(database: Database, *, lost: frozenset[str] = frozenset()) -> None:
    """Check a state. `lost`: what the store lost on the way there (`thread`, `queue`, `log`, `callbacks`).

    Raises:
        Violation: names the sentence that does not hold.
    """
    for key, record in _records(database).items():
        _check_run(database, key, record, lost=lost)
    _check_threads(database, lost=lost)
    _check_deliveries(database)
    _check_accounts(database)
    for key in database.data:
        if database.call("PTTL", key) == NO_EXPIRY and not key.endswith(PERMANENT):
            raise Violation(f"16: {key} lives for ever")


def _records(database: Database) -> dict[str, dict[str, str]]:
    return {key: value for key, value in database.data.items() if key.endswith(":record")}


def _sibling(key: str, name: str) -> str:
    return f"{key.removesuffix('record')}{name}"


def _run_id_of(key: str) -> str:
    *_, tag, unique, _ = key.split(":")
    return f"{tag.strip('{}')}_{unique}"


def _check_run(database: Database, key: str, record: dict[str, str], *, lost: frozenset[str]) -> None:
    run_id = _run_id_of(key)
    k = keys.run(run_id)
    active = {**database.data.get(k.active, {}), **database.data.get(keys.FIRST_INDEXES.active, {})}
    compact = {**database.data.get(k.compact, {}), **database.data.get(keys.FIRST_INDEXES.compact, {})}
    if record["status"] in UNFINISHED:
        if run_id not in active:
            raise Violation(f"12: {run_id} is {record['status']}, and nobody will look at it")
        if run_id in compact:
            raise Violation(f"13: {run_id} is {record['status']}, and its deltas are to be dropped")
        if record["status"] == "requires_action" and active[run_id] > float(record["expires"]):
            raise Violation(f"12: {run_id} expires at {record['expires']}, and is looked at later")
        return
    if run_id in active:
        raise Violation(f"12: {run_id} is over, and still looked at")
    entries = database.data.get(_sibling(key, "log"), Stream()).entries
    is_listed = run_id in database.data.get(k.thread_runs, {})  # a released run is not: the archive has it
    if len(entries) > 1 and is_listed and run_id not in compact:
        raise Violation(f"13: {run_id} is over, and nobody drops its {len(entries)} entries")


def _check_threads(database: Database, *, lost: frozenset[str]) -> None:
    """Each unfinished run of a thread holds it, or waits in its queue, once."""
    records = _records(database)
    for thread in {key.rsplit(":", 2)[0] + ":thread" for key in records}:
        mine = {
            _run_id_of(key): record
            for key, record in records.items()
            if key.rsplit(":", 2)[0] + ":thread" == thread and record["status"] in UNFINISHED
        }
        holder = database.data.get(thread, {}).get("active")
        queue = database.data.get(thread.replace(":thread", ":queue"), ())
        for run_id, record in mine.items():
            waits = record.get("waiting") == "thread"
            places = Counter(queue)[run_id] + (run_id == holder)
            if places > 1 or (places == 0 and not lost & {"thread", "queue"}):
                raise Violation(f"14: {run_id} has {places} places on its thread")
            if not lost & {"thread", "queue"} and waits != (run_id in queue):
                raise Violation(f"14: {run_id} waits for {record.get('waiting')}, the queue is {queue}")
        if holder and holder not in mine and any(r.get("waiting") != "thread" for r in mine.values()):
            raise Violation(f"14: {holder} holds the thread of {sorted(mine)}")


def _check_deliveries(database: Database) -> None:
    """A delivery is due exactly while it is open; each belongs to an event of the run that is kept beside it."""
    due = {entry for key, value in database.data.items() if key.endswith("}:callbacks") for entry in value}
    open_ones: set[str] = set()
    for key, fields in database.data.items():
        if key.endswith(":callbacks") and not key.endswith("}:callbacks"):
            run_id = _run_id_of(key)
            numbers = [name for name in fields if name.count(".") == 1 and ":" not in name]
            open_ones |= {f"{run_id}.{name}" for name in numbers}
            if missing := {name.split(".")[0] for name in numbers} - set(fields):
                raise Violation(f"15: {run_id} has deliveries of no event: {missing}")
    if due != open_ones:
        raise Violation(f"15: due are {sorted(due)}, open are {sorted(open_ones)}")


def _check_accounts(database: Database) -> None:
    """What is held is the sum of what is reserved, and nobody both has a place and waits for one."""
    for key, fields in database.data.items():
        if key.endswith(":admitted") and (both := set(fields) & set(database.data.get(_waiting(key), {}))):
            raise Violation(f"17: {both} have a place, and wait for one")
        if "held_nanos" in fields if isinstance(fields, dict) else False:
            held = [value.split() for name, value in fields.items() if name.startswith("call:")]
            sums = (sum(int(one[1]) for one in held), sum(int(one[2]) for one in held))
            if sums != (int(fields["held_nanos"]), int(fields["held_tokens"])):
                raise Violation(f"17: {fields} holds other than {sums}")


def _waiting(admitted: str) -> str:
    return admitted.removesuffix("admitted") + "waiting"


# -- progress


class _Broker:
    """Takes messages; all workers are dead, so nobody reads them."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    async def apublish(
        self, run_id: str, *, user_id: str, engine: str, parents: ParentTasks | None = None
    ) -> str:
        del user_id, engine, parents
        self.messages.append(run_id)
        return "task"

    async def acall(
        self, task: str, *, event: dict[str, Any], task_id: str, queue: str | None, run_id: str
    ) -> None:
        """Tell a task of an event: nobody reads that, either."""


class Fate:
    """What sweeps alone come to from a state."""

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self.store = InProcessStore(interpreter or Interpreter())
        self.broker = _Broker()
        operations = Operations(
            store=self.store,
            settings=SETTINGS,
            publisher=self.broker,  # type: ignore[arg-type]
        )
        self.sweeper = Sweeper(operations=operations, owner=lambda: "S")
        logging.getLogger("mainstem_shared").setLevel(logging.CRITICAL)  # it would report every lost run

    def looks(self, database: Database) -> int:
        """Return how many looks it takes until all runs are over, one after the other as they are due.

        Raises:
            Violation: one is not over after LOOKS of them, or nobody looks at it any more.
        """
        now, after = database.now, database.copy()
        for number in range(LOOKS):
            unfinished = {
                _run_id_of(key): record
                for key, record in _records(after).items()
                if record["status"] in UNFINISHED
            }
            if not unfinished:
                return number
            due = {
                run_id: after.data.get(keys.run(run_id).active, {}).get(run_id, math.inf)
                for run_id in unfinished
            }
            run_id = min(due, key=lambda one: (due[one], one))
            if due[run_id] == math.inf:
                raise Violation(f"12: nobody looks at {unfinished} any more, after {number} looks")
            now = max(now, int(due[run_id])) + 1
            after = self._look(after, run_id, now, int(due[run_id]))
        raise Violation(f"12: not over after {LOOKS} looks: {unfinished}")

    def _look(self, database: Database, run_id: str, now: int, score: int) -> Database:
        """Have a sweeper do what a run needs at its time."""
        after = database.copy()
        after.now = now
        self.store.interpreter.database = after
        clock.stand_at(now)
        drive(transitions.take_due(self.store, keys.run(run_id).active, limit=100, hold_ms=HOLD_MS))
        (record,) = drive(
            transitions.read_many(self.store, [run_id], *sweeping._WANTED)  # pyright: ignore[reportPrivateUsage]
        )
        drive(
            self.sweeper._check_one(run_id, record, now=now, score=score)  # pyright: ignore[reportPrivateUsage]
        )
        return self.store.interpreter.database
