"""What must hold after a history, as sentences and as code.

1. **Nobody is stuck.** Once everything is whole again, every run comes to its end, and every reader sees it.
2. **Readers got the log.** Each event followed the one before it, none came twice, none after the end, and the end
   says what the events added up to; but for runs that lived through a fail-over that lost writes.
3. **The end is one.** All who saw a run's end saw the one that the store has; unless a fail-over lost it, and the
   process that had written it died, or was cut off.
4. **Nothing acknowledged is lost.** A start that was answered is a run, unless a fail-over lost the moment.
5. **What is stored is a history that the protocol allows.** The rules of `mainstem verify`.
6. **Nothing is left over.** No thread names a run that is over, no index lists it as unfinished, no owner owns it.
7. **An abort takes effect.** A run whose abort was answered does not go on for long.
8. **Nothing failed that was not foreseen.** No task of a process ended with an error that is not an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from mainstem_shared.model import cursors, events, jsontext
from mainstem_shared.model.verification import Dump, verify
from mainstem_shared.store import keys
from simulation.browsers import Life, Reader

if TYPE_CHECKING:
    from simulation.trial import World

HEARD_S: Final = 120.0
"""Longest cut or pause of an owner, its lease, two sweeps, and a reader's way to the end."""
BEFORE_S: Final = 3.0
"""How much later than it was written a reader sees an end, at most."""
REMEMBERED_S: Final = 60.0
"""For how long a process makes changes again that a fail-over lost."""
ELSEWHERE: Final = frozenset({"kill", "shutdown", "pause", "isolation", "partition"})
"""What keeps a process from making a change again."""
OVER: Final = frozenset({"succeeded", "failed", "aborted"})


def records(world: World) -> dict[str, dict[str, str]]:
    """Return the records of all runs in the store, by key."""
    data = world.store.primary.data.data
    return {key: value for key, value in data.items() if key.endswith(":record")}


def is_settled(world: World) -> bool:
    """Tell whether there is nothing more to wait for."""
    undone = undone_threads(world)
    if any(
        record.get("status") not in OVER and not _is_of(key, undone) for key, record in records(world).items()
    ):
        return False
    return all(_is_settled(life) or _is_of(life.run_id, undone) for life in world.browsers.lives)


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
        *(f"8: {failure}" for member in world.members for failure in member.failures),
        *(f"8: {failure}" for failure in world.unforeseen),
    ]


def _stuck(world: World) -> Iterator[str]:
    undone = undone_threads(world)
    for key, record in records(world).items():
        if record.get("status") not in OVER and not _is_of(key, undone):
            yield f"1: {key} is still {record.get('status')}"
    for life in world.browsers.lives:
        if not _is_settled(life) and not _is_of(life.run_id, undone):
            yield f"1: user {life.number} still waits for {life.run_id or 'an answer'}"


def undone_threads(world: World) -> set[str]:
    """Return the tags of threads with a run that people saw end, and that a fail-over brought back for good.

    Nobody looks after it any more: in life somebody would look again.
    """
    return {
        life.run_id.partition("_")[0]
        for life in world.browsers.lives
        for reader in life.readers
        if reader.end is not None and _lost_its_witness(world, reader)
    }


def _is_of(name: str, tags: set[str]) -> bool:
    """Tell whether a key or a run id is of one of these threads."""
    return any(tag in name for tag in tags)


def _of_life(world: World, life: Life) -> Iterator[str]:
    if not life.run_id:
        return
    stored = world.store.primary.data.data.get(keys.run(life.run_id).record)
    if stored is None:
        if not _may_be_lost(world, life):
            yield f"4: {life.run_id} was acknowledged at {life.acknowledged:.3f} and is not there"
        return
    for reader in life.readers:
        yield from _of_reader(world, reader, stored)
    if not _is_of(life.run_id, undone_threads(world)):
        yield from _of_abort(life, stored)


def _of_abort(life: Life, stored: dict[str, str]) -> Iterator[str]:
    if life.aborted == "aborted" and stored.get("reason") not in {"user_abort", "replaced"}:
        yield f"3: an abort of {life.run_id} was answered, and it ended as {stored.get('reason')}"
    for reader in life.readers:
        at = 0.0 if reader.end is None else reader.ended_at
        if life.aborted in {"aborted", "pending"} and at > life.aborted_at + HEARD_S:
            yield f"7: {life.run_id} went on for {at - life.aborted_at:.0f} s after its abort was answered"


def _of_reader(world: World, reader: Reader, stored: dict[str, str]) -> Iterator[str]:
    for fault in reader.faults:
        yield f"2: {reader.run_id}: {fault}"
    if reader.end is not None and reader.said != reader.content.text and not _went_back(world, reader.run_id):
        yield f"2: the end of {reader.run_id} says {reader.content.text!r}, its events said {reader.said!r}"
    if reader.is_gone:
        yield f"4: a reader was told that {reader.run_id} is not there"
    if reader.end is None or reader.end["reason"] == stored.get("reason"):
        return
    if not _lost_its_witness(world, reader):
        yield f"3: a reader of {reader.run_id} saw {reader.end['reason']}, stored is {stored.get('reason')}"


def _lost_its_witness(world: World, reader: Reader) -> bool:
    """Tell whether a fail-over lost the end that a reader saw, and something befell who could make it again."""
    return any(
        since - BEFORE_S <= reader.ended_at <= until
        and any(
            one.kind in ELSEWHERE and one.at <= until + REMEMBERED_S and one.at + one.seconds >= since
            for one in world.plan.faults
        )
        for since, until in world.store.lost_from
    )


def _went_back(world: World, run_id: str) -> bool:
    """Tell whether a fail-over lost writes while a run lived."""
    for life in world.browsers.lives:
        if life.run_id == run_id:
            ended = max((reader.ended_at for reader in life.readers), default=world.timeline.now)
            return any(since <= ended and life.begun <= until for since, until in world.store.lost_from)
    return bool(world.store.lost_from)  # nobody knows of it: its start was lost, or refused


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
            if finding.rule == "content" and _went_back(world, record_run(record)):
                continue  # what a pause found lost is in the run's state alone (docs/simulation.md)
            yield f"5: {key}: {finding.rule} at {finding.at}: {finding.text}"


def record_run(record: dict[str, str]) -> str:
    """Return the id of a record's run."""
    return str(jsontext.loads(record["spec"].encode("latin-1"))["run_id"])


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
    data, undone = world.store.primary.data.data, undone_threads(world)
    for key, value in data.items():
        if _is_of(key, undone):
            continue
        if key.endswith(":thread") and "active" in value:
            yield f"6: {key} names {value['active']}"
        elif key.endswith(":active") and (
            listed := [run for run in sorted(value) if not _is_of(run, undone)]
        ):
            yield f"6: {key} lists {listed}"
        elif key.endswith(":queue") and value:
            yield f"6: {key} holds {value}"
