"""What must hold after a history, as sentences and as code.

1. **Nobody is stuck.** Once everything is whole again, every run comes to its end, and every reader sees it.
2. **Readers got the log.** Each event followed the one before it, none came twice, none after the end, and the end
   says what the events added up to.
3. **The end is one.** All who saw a run's end saw the one that the store has.
4. **Nothing acknowledged is lost.** A start that was answered is a run, unless a fail-over lost the moment.
5. **What is stored is a history that the protocol allows.** The rules of `mainstem verify`.
6. **Nothing is left over.** No thread names a run that is over, no index lists it as unfinished, no owner owns it.
7. **Nothing failed that was not foreseen.** No task of a process ended with an error that is not an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from mainstem_shared.model import cursors, events
from mainstem_shared.model.verification import Dump, verify
from mainstem_shared.store import keys
from simulation.browsers import Life, Reader

if TYPE_CHECKING:
    from simulation.trial import World

OVER: Final = frozenset({"succeeded", "failed", "aborted"})


def records(world: World) -> dict[str, dict[str, str]]:
    """Return the records of all runs in the store, by key."""
    data = world.store.primary.data.data
    return {key: value for key, value in data.items() if key.endswith(":record")}


def is_settled(world: World) -> bool:
    """Tell whether there is nothing more to wait for."""
    if any(record.get("status") not in OVER for record in records(world).values()):
        return False
    return all(_is_settled(life) for life in world.browsers.lives)


def _is_settled(life: Life) -> bool:
    begun = life.gave_up or life.acknowledged is not None
    return begun and all(reader.end is not None or reader.is_gone for reader in life.readers)


def check(world: World) -> list[str]:
    """Return what does not hold."""
    return [
        *_stuck(world),
        *(fault for life in world.browsers.lives for fault in _of_life(world, life)),
        *_of_store(world),
        *_left_over(world),
        *(f"7: {failure}" for member in world.members for failure in member.failures),
        *(f"7: {failure}" for failure in world.unforeseen),
    ]


def _stuck(world: World) -> Iterator[str]:
    for key, record in records(world).items():
        if record.get("status") not in OVER:
            yield f"1: {key} is still {record.get('status')}"
    for life in world.browsers.lives:
        if not _is_settled(life):
            yield f"1: user {life.number} still waits for {life.run_id or 'an answer'}"


def _of_life(world: World, life: Life) -> Iterator[str]:
    if not life.run_id:
        return
    stored = world.store.primary.data.data.get(keys.run(life.run_id).record)
    if stored is None:
        if not _may_be_lost(world, life):
            yield f"4: {life.run_id} was acknowledged at {life.acknowledged:.3f} and is not there"
        return
    for reader in life.readers:
        yield from _of_reader(reader, stored)
    if life.aborted == "aborted" and stored.get("reason") not in {"user_abort", "replaced"}:
        yield f"3: an abort of {life.run_id} was answered, and it ended as {stored.get('reason')}"


def _of_reader(reader: Reader, stored: dict[str, str]) -> Iterator[str]:
    for fault in reader.faults:
        yield f"2: {reader.run_id}: {fault}"
    if reader.is_gone:
        yield f"4: a reader was told that {reader.run_id} is not there"
    if reader.end is not None and reader.end["reason"] != stored.get("reason"):
        yield f"3: a reader of {reader.run_id} saw {reader.end['reason']}, stored is {stored.get('reason')}"


def _may_be_lost(world: World, life: Life) -> bool:
    assert life.acknowledged is not None
    return any(since <= life.acknowledged and life.begun <= until for since, until in world.store.lost_from)


def _of_store(world: World) -> Iterator[str]:
    data = world.store.primary.data.data
    for key, record in records(world).items():
        base = key.removesuffix("record")
        found = verify(
            Dump(
                run_id=key,
                record=_raw(record),
                entries=_entries(data.get(f"{base}log")),
                snapshot=_snapshot(data.get(f"{base}snapshot")),
            )
        )
        for finding in found.findings:
            yield f"5: {key}: {finding.rule} at {finding.at}: {finding.text}"


def _raw(fields: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode("latin-1") for name, value in fields.items()}


def _entries(stream: Any) -> list[events.Entry]:
    if stream is None:
        return []
    return [
        events.entry(name.encode(), [part.encode("latin-1") for part in pairs])
        for name, pairs in stream.entries
    ]


def _snapshot(stored: dict[str, str] | None) -> tuple[cursors.Cursor, bytes] | None:
    return (cursors.parse(stored["cursor"]), stored["state"].encode("latin-1")) if stored else None


def _left_over(world: World) -> Iterator[str]:
    data = world.store.primary.data.data
    for key, value in data.items():
        if key.endswith(":thread") and "active" in value:
            yield f"6: {key} names {value['active']}"
        elif key.endswith(":active"):
            yield f"6: {key} lists {sorted(value)}"
        elif key.endswith(":queue") and value:
            yield f"6: {key} holds {value}"
