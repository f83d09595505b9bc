"""States of a store in which every verb is tried, each by everybody who may call it (`callers`).

Written-down lives of runs lead there (`lives`), and from each state of a life every call that changes something leads
to one more. `check` executes a call in a state, and holds its answer, and all that it leaves, against `reference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared.store import keys
from model.callers import EARLY, FORK, RUN_IDS, TAG, Call, Callers
from model.lives import LIVES
from model.redis_in_process import CommandError, Database, Stream
from model.reference import Sheet
from model.reference_beside import VERBS
from model.scripts import Interpreter


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a call came to: its answer, and the store afterwards."""

    answer: Any
    database: Database

    def fingerprint(self) -> int:
        return hash((_frozen(self.answer), full_fingerprint(self.database)))

    def differs(self, other: Outcome) -> str:
        """Say what is different, in one line."""
        if self.answer != other.answer:
            return f"answers {_short(self.answer)}, not {_short(other.answer)}"
        for kind in ("data", "expires"):
            mine, theirs = getattr(self.database, kind), getattr(other.database, kind)
            for key in sorted({*mine, *theirs}):
                if mine.get(key) != theirs.get(key):
                    name = key.rpartition(":")[2]
                    what = "" if kind == "data" else "'s life"
                    return f"{name}{what}: {_difference(mine.get(key), theirs.get(key))}"
        return ""


def _difference(mine: Any, theirs: Any) -> str:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        fields = sorted({*mine, *theirs})
        changed = [name for name in fields if mine.get(name) != theirs.get(name)]
        return "; ".join(f"{n} is {_short(mine.get(n))}, not {_short(theirs.get(n))}" for n in changed[:2])
    return f"{_short(mine)}, not {_short(theirs)}"


def _short(value: Any) -> str:
    shown = str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def full_fingerprint(database: Database) -> int:
    """A number that databases share that are equal, lifetimes and clock included."""
    return hash((database.copy().fingerprint(), tuple(sorted(database.expires.items())), database.now))


def _plain(reply: Any) -> Any:
    """An answer as text, so that 2 and '2' are the same."""
    if isinstance(reply, list):
        return [_plain(item) for item in reply]
    return reply.decode("latin-1") if isinstance(reply, bytes) else None if reply is None else str(reply)


def executed(interpreter: Interpreter, database: Database, call: Call) -> Outcome:
    """Execute a call by a script."""
    after = interpreter.database = database.copy()
    after.now = call.now
    try:
        answer = _plain(interpreter.run(call.script, call.keys, call.args))
    except Exception as error:  # whatever a broken script comes to: no answer of the protocol's
        answer = [f"{type(error).__name__}: {error}"]
    return Outcome(answer=answer, database=interpreter.database)


def expected(database: Database, call: Call) -> Outcome:
    """Return what the call must come to."""
    before = database.copy()
    before.now = call.now
    sheet = Sheet(before, call.keys, call.args)
    try:
        answer = _plain(VERBS[call.script](sheet))
    except CommandError as error:
        answer = [f"{type(error).__name__}: {error}"]
    return Outcome(answer=answer, database=sheet.database)


# -- what happens beside verbs


def _append(database: Database, run_id: str, count: int = 1) -> Database | None:
    """Its owner appends to a running run's log."""
    k = keys.run(run_id)
    record, log = database.data.get(k.record, {}), database.data.get(k.log, Stream())
    if record.get("status") != "running" or not log.entries:
        return None
    epoch = int(record["epoch"])
    seq = log.last[1] + 1 if log.last[0] == epoch else 1
    after = database.copy()
    for number in range(seq, seq + count):
        after.call("XADD", k.log, "NOMKSTREAM", f"{epoch}-{number}", "d", '{"part":0,"text":"x"}')
    return after


def _lose(database: Database, *names: str) -> Database | None:
    """The store loses keys: they expired, or were evicted."""
    after = database.copy()
    return after if after.call("DEL", *names) else None


def _put_back(database: Database) -> Database | None:
    """The thread is where version 1 kept it."""
    old, new = keys.of_first_version(TAG), keys.of_bucket(TAG)
    after, indexes = database.copy(), keys.run(RUN_IDS["A"])
    for key in [key for key in after.data if key.startswith(f"{new.thread}:") and ":callbacks" not in key]:
        after.call("RENAME", key, old.thread + key.removeprefix(new.thread))
    for kind in ("active", "recent", "compact"):
        if (index := getattr(indexes, kind)) in after.data:
            after.call("RENAME", index, getattr(keys.FIRST_INDEXES, kind))
    for key, value in list(after.data.items()):
        if key.startswith(old.thread) and key.endswith(":record") and "idem" in value:
            after.call("HSET", key, "idem", old.thread + value["idem"].removeprefix(new.thread))
    return after


def changes(database: Database) -> Iterator[tuple[str, Database]]:
    """List what may happen in a state that no verb does."""
    for name, run_id in RUN_IDS.items():
        k = keys.run(run_id)
        found = {
            f"append {name}": _append(database, run_id),
            f"append 70 {name}": _append(database, run_id, 70),
            f"lose record {name}": _lose(database, k.record),
            f"lose log {name}": _lose(database, k.log),
            f"lose snapshot {name}": _lose(database, k.snapshot),
            f"lose checkpoint {name}": _lose(database, k.checkpoint),
        }
        yield from ((label, after) for label, after in found.items() if after is not None)
    k = keys.run(RUN_IDS["A"])
    shared = {
        "lose queue": _lose(database, k.thread_queue),
        "lose thread": _lose(database, k.thread),
        "lose runs": _lose(database, k.thread_runs),
        "lose fork": _lose(database, keys.run(FORK).thread_runs),
        "be of version 1": _put_back(database),
    }
    yield from ((label, after) for label, after in shared.items() if after is not None)


# -- the states


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state and how it is reached; `calls` are everybody's calls in it."""

    history: tuple[str, ...]
    database: Database
    calls: tuple[Call, ...]


def begin() -> Database:
    """Return a store in which nothing has happened."""
    database = Database()
    database.now, database.lose_nothing = EARLY, True
    return database


def _state(history: tuple[str, ...], database: Database) -> State:
    return State(history=history, database=database, calls=tuple(Callers(database).calls()))


def along(lives: Mapping[str, Iterable[str]] = LIVES) -> list[State]:
    """Return every state of the written-down lives, once.

    Raises:
        LookupError: a step of a life cannot be taken, or changes nothing.
    """
    interpreter = Interpreter()
    known: dict[int, State] = {}

    def note(history: tuple[str, ...], database: Database) -> State:
        return known.setdefault(full_fingerprint(database), _state(history, database))

    for name, steps in lives.items():
        state = note((), begin())
        for number, step in enumerate(steps):
            after = _after(interpreter, state, step)
            if after is None or full_fingerprint(after) == full_fingerprint(state.database):
                raise LookupError(f"{name}: step {number}, {step!r}, cannot be taken")
            state = note((*state.history, step), after)
    return list(known.values())


def _after(interpreter: Interpreter, state: State, step: str) -> Database | None:
    for call in state.calls:
        if call.label == step:
            return executed(interpreter, state.database, call).database
    return dict(changes(state.database)).get(step)


def beyond(states: list[State], *, limit: int) -> list[State]:
    """Return these states, and those that one more call leads to, `limit` in all; the first states' come first."""
    interpreter = Interpreter()
    known = {full_fingerprint(state.database): state for state in states}
    for state in states:
        if len(known) >= limit:
            break
        made = ((call.label, executed(interpreter, state.database, call).database) for call in state.calls)
        for label, after in (*made, *changes(state.database)):
            name = full_fingerprint(after)
            if name not in known and len(known) < limit:
                known[name] = _state((*state.history, label), after)
    return list(known.values())


# -- what is tried in them

NEIGHBOURLY: Final = frozenset({"start", "finish", "promote", "pause", "move", "forget", "erase"})
"""Verbs that read keys beyond those that they are given: other runs' of the thread, memories of its engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call in a state, and a number that outcomes share which are what it must come to."""

    state: State
    call: Call
    expected: int


def cases(pool: Iterable[State]) -> list[Case]:
    """Return everybody's calls in all states; of calls to which two states look the same, one."""
    found: dict[tuple[object, ...], Case] = {}
    for state in pool:
        whole = full_fingerprint(state.database)
        for call in state.calls:
            seen = whole if call.script in NEIGHBOURLY else _seen_by(state.database, call)
            name = (call.script, call.keys, call.args, call.now, seen)
            if name not in found:
                must = expected(state.database, call).fingerprint()
                found[name] = Case(state=state, call=call, expected=must)
    return list(found.values())


def _seen_by(database: Database, call: Call) -> tuple[object, ...]:
    """What a verb can see that looks at nothing but the keys that it is given. (A state keeps its values alive.)"""
    return tuple((id(database.data.get(key)), database.expires.get(key)) for key in call.keys)
