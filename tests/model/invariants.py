"""What must hold in every state, as sentences and as code.

1. **Gap-free log.** Each entry follows the one before it, by the product's own cursor algebra.
2. **One end.** `run.finished` stands in the log at most once, as its last entry.
3. **The record and the log agree.** The record is terminal exactly if the log has its end, and the record's epoch is
   that of the log's last entry.
4. **One owner.** Only the owner in the record appends, ends, pauses, hands over or repairs, in the record's epoch
   (`world.Machine` checks each step).
5. **One continuation per decision.** A run is never resolved more often than it asked.
6. **The thread is the active run's.** It names the run exactly while the run is not over.
7. **Terminal is final.** No step but a fail-over changes a run that is over.
8. **Nothing acknowledged is lost silently.** What a worker in control believes acknowledged is what the log ends with.
9. **A living owner knows it.** Unless the store went back, whoever the record names as owner of a running run executes
   it, or waits for the reply to the call that made it the owner.
10. **Operators find the same.** What `mainstem verify` would say of the state: its rules hold.
11. **Memory and content stand at one point.** What the engine remembers is what was said at its last checkpoint or
   pause, or in the end; a run that somebody else ended has said that, and maybe more.
"""

from __future__ import annotations

import itertools

from mainstem_shared.eventlog.writing.channels import Phase
from mainstem_shared.model import cursors, events, jsontext
from mainstem_shared.model.events import Entry
from mainstem_shared.model.verification import Dump, verify
from mainstem_shared.store import keys
from model.redis_in_process import Database
from model.world import RUN, Violation, World

OVER = frozenset({"succeeded", "failed", "aborted"})
K = keys.run(RUN)
MEMORY = keys.memory_of(RUN, "demo")


def check(world: World) -> None:
    """Check a state.

    Raises:
        Violation: names the sentence that does not hold.
    """
    record = world.database.data[K.record]
    entries = [
        events.entry(name.encode(), [part.encode("latin-1") for part in pairs])
        for name, pairs in world.database.data[K.log].entries
    ]
    for before, after in itertools.pairwise(entries):
        if not cursors.follows(before.cursor, after.cursor, after.prev):
            raise Violation(f"1: {after.cursor} (prev {after.prev}) does not follow {before.cursor}")
    kinds = [entry.type for entry in entries]
    if "run.finished" in kinds[:-1]:
        raise Violation(f"2: {kinds}")
    is_over = record["status"] in OVER
    if is_over != (kinds[-1] == "run.finished"):
        raise Violation(f"3: the record says {record['status']}, the log {kinds}")
    if int(record["epoch"]) != entries[-1].cursor.epoch:
        raise Violation(f"3: the record is in epoch {record['epoch']}, the log at {entries[-1].cursor}")
    if kinds.count("approval.resolved") > kinds.count("approval.required"):
        raise Violation(f"5: {kinds}")
    if (world.database.data.get(K.thread, {}).get("active") == RUN) == is_over:
        raise Violation(f"6: {record['status']}, but the thread has {world.database.data.get(K.thread)}")
    _check_memory(world.database, entries[-1], is_over=is_over)
    _check_holders(world, record, entries[-1].cursor)
    _check_verdict(world, record, entries)


def _check_memory(database: Database, last: Entry, *, is_over: bool) -> None:
    remembered = database.data.get(MEMORY, {}).get("said", "").encode("latin-1").decode()
    if is_over:
        final = last.payload()
        said = events.text_of(final["content"])
        if said != remembered and (final["reason"] == "completed" or not said.startswith(remembered)):
            raise Violation(f"11: the engine remembers {remembered!r}, the run ended with {said!r}")
        return
    checkpoint, snapshot = database.data.get(K.checkpoint), database.data.get(K.snapshot)
    state = checkpoint and (checkpoint.get("fold") or (snapshot or {}).get("state"))
    said = events.text_of(jsontext.loads(state.encode("latin-1"))["content"]) if state else ""
    if said != remembered:
        raise Violation(f"11: the engine remembers {remembered!r}, its checkpoint is at {said!r}")


def _check_verdict(world: World, record: dict[str, str], entries: list[Entry]) -> None:
    stored = world.database.data.get(K.snapshot)
    state = (cursors.parse(stored["cursor"]), stored["state"].encode("latin-1")) if stored else None
    fields = {name: value.encode("latin-1") for name, value in record.items()}
    verdict = verify(Dump(run_id=RUN, record=fields, entries=entries, snapshot=state))
    if verdict.findings:
        raise Violation(f"10: {verdict.findings}")


def _check_holders(world: World, record: dict[str, str], top: cursors.Cursor) -> None:
    for worker in world.workers:
        channel = worker.channel
        owns = record["status"] == "running" and record.get("owner") == worker.owner
        if owns and channel is None and not worker.calling and not world.went_back:
            raise Violation(f"9: {worker.owner} does not know that it owns the run")
        if channel is None or worker.calling or channel.phase is not Phase.OPEN or channel.group is not None:
            continue
        control = channel.control
        in_control = (record.get("owner"), int(record["epoch"])) == (control.owner, control.epoch)
        if in_control and channel.acknowledged != top:
            raise Violation(
                f"8: {worker.owner} has {channel.acknowledged} acknowledged, the log ends at {top}"
            )


def check_step(before: Database, after: Database, label: str) -> None:
    """Check what one step did: a run that is over stays as it is."""
    old, new = before.data[K.record], after.data[K.record]
    was_over = old["status"] in OVER and "loses" not in label
    if was_over and (old["status"], old["reason"]) != (new["status"], new.get("reason")):
        raise Violation(f"7: {old['status']} became {new['status']}")
