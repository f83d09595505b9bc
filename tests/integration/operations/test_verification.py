"""`mainstem verify` accepts the histories that the verbs write, and names the rule that any other one breaks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from mainstem_api.cli import build_app
from mainstem_shared import errors, transitions
from mainstem_shared.model import events, jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.verification import Dump, verify
from mainstem_shared.operations.queries import run_dumps
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.models.recordings import FIXTURES


async def written(store: Store, *, finish: bool = True, thread_id: str | None = None) -> tuple[RunLog, Dump]:
    """A run of two segments and a resync, with text, a call, and an end."""
    log = await RunLog.start(store, thread_id=thread_id)
    await log.claim()
    await log.say(3)
    step = {"step_id": "c1", "kind": "tool_call", "name": "look", "at": 1, "arguments": {}}
    await log.append((Type.STEP_STARTED, step))
    await log.append((Type.STEP_COMPLETED, {"step_id": "c1", "state": "completed", "result": 1, "at": 2}))
    await log.say(2)
    await log.handover()
    await log.claim("w2")
    await log.say(2)
    await log.resync()
    await log.say(2)
    if finish:
        await log.finish()
    return log, await run_dumps.dump(store, log.run_id)


async def test_what_the_verbs_write_holds(store: Store):
    """At every moment of a run's life: fresh, running, trimmed behind snapshots, handed over, over, compacted."""
    log = await RunLog.start(store)
    steps: list[Callable[[], Any]] = [
        log.claim, log.say, log.snapshot, lambda: log.say(3), log.snapshot, lambda: log.say(2), log.resync,
        log.say, log.handover, log.claim, log.say, log.finish, log.compact,
    ]  # fmt: skip
    for step in steps:
        await step()
        verdict = verify(await run_dumps.dump(store, log.run_id))
        assert not verdict.findings, verdict
    compared = [verify(dump).states for _, dump in [await written(store), await written(store, finish=False)]]
    assert compared == [1, 1], "an end, and the snapshot of a resync"


def without(dump: Dump, index: int) -> Dump:
    return dataclasses.replace(dump, entries=[*dump.entries[:index], *dump.entries[index + 1 :]])


def with_entry(dump: Dump, index: int, **changes: Any) -> Dump:
    entries = list(dump.entries)
    entries[index] = entries[index]._replace(**changes)
    return dataclasses.replace(dump, entries=entries)


def with_record(dump: Dump, **fields: bytes) -> Dump:
    return dataclasses.replace(dump, record={**dump.record, **fields})


async def test_no_entry_can_be_missing(store: Store):
    """Whichever is taken away; but for the first, which a snapshot may have covered while the run lived."""
    _, dump = await written(store)
    assert not verify(dump).findings
    for index, entry in list(enumerate(dump.entries))[1:]:
        rules = {finding.rule for finding in verify(without(dump, index)).findings}
        assert rules & {"gap", "beginning", "record"}, entry


async def test_no_text_can_be_another(store: Store):
    """A changed delta, a changed end: the state does not say what the entries add up to."""
    _, dump = await written(store)
    after_resync = max(n for n, entry in enumerate(dump.entries) if entry.type == Type.RESYNC)
    for index in range(after_resync + 1, len(dump.entries)):
        data = re.sub(rb"w(\d)", rb"v\1", dump.entries[index].data)
        assert data != dump.entries[index].data
        (finding,) = verify(with_entry(dump, index, data=data)).findings
        assert finding.rule == "content"
        assert "w8" not in finding.text, "findings do not quote what users and models said"


async def test_an_end_may_say_more_than_the_entries_and_never_less(store: Store):
    """A fail-over loses the end and the last entries; made again, the end says all of it."""
    _, dump = await written(store)
    end = dump.entries[-1]
    last = max(n for n, entry in enumerate(dump.entries) if entry.type == Type.MESSAGE_DELTA)
    for change, rules in (
        ((rb'"text":"', rb'"text":"x'), {"content"}),  # it does not begin as the entries do
        ((rb"w8", rb""), {"content"}),  # it lacks their last words
        ((rb"w8", rb"w8 w9"), set[str]()),
    ):
        data = end.data.replace(*change)
        assert data != end.data
        assert rules_of(with_entry(dump, len(dump.entries) - 1, data=data)) == rules, change
    changed = re.sub(rb"w(\d)", rb"v\1", dump.entries[last].data)
    assert rules_of(with_entry(dump, last, data=changed)) == {"content"}


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"status": b"failed"}, "record"),
        ({"reason": b"user_abort"}, "record"),
        ({"epoch": b"1"}, "record"),
        ({"segment": b"3"}, "record"),
    ],
)
async def test_the_record_agrees_with_the_log(store: Store, fields: dict[str, bytes], rule: str):
    _, dump = await written(store)
    assert [finding.rule for finding in verify(with_record(dump, **fields)).findings] == [rule]


async def test_a_life_has_an_order(store: Store):
    """An event after the end, outside of a segment, a claim of a running run, a segment left out."""
    _, dump = await written(store)
    kinds = [entry.type for entry in dump.entries]
    last = dump.entries[-1]
    more = Entry(last.cursor.next(), Type.MESSAGE_DELTA, b'{"part":0,"text":"x"}')
    assert "order" in rules_of(dataclasses.replace(dump, entries=[*dump.entries, more]))
    assert "order" in rules_of(with_entry(dump, kinds.index(Type.QUEUED), type=Type.STARTED))
    assert "outside" in rules_of(with_entry(dump, kinds.index(Type.STARTED), type=Type.MESSAGE_DELTA))
    second = kinds.index(Type.RESTARTED)
    data = dump.entries[second].data.replace(b'"segment":2', b'"segment":4')
    assert "segment" in rules_of(with_entry(dump, second, data=data))


def rules_of(dump: Dump) -> set[str]:
    return {finding.rule for finding in verify(dump).findings}


async def test_an_action_is_decided_once(store: Store):
    _, dump = await written(store)
    top = dump.entries[0].cursor
    made: list[Entry] = [dump.entries[0]]

    def control(kind: str, **payload: Any) -> None:
        cursor = Cursor(made[-1].cursor.epoch + 1, 0)
        made.append(Entry(cursor, kind, jsontext.dumps({"prev": str(made[-1].cursor), **payload})))

    control(Type.STARTED, segment=1)
    control(Type.APPROVAL_REQUIRED, action={"action_id": "a1"})
    control(Type.APPROVAL_RESOLVED, action_id="a1")
    record = {"status": b"queued", "epoch": str(made[-1].cursor.epoch).encode(), "segment": b"1"}
    good = Dump(run_id="r", record=record, entries=list(made))
    assert top == good.entries[0].cursor
    assert not verify(good).findings
    control(Type.APPROVAL_RESOLVED, action_id="a1")
    assert {"order", "decision"} <= rules_of(dataclasses.replace(good, entries=list(made)))
    other = [*made[:3], made[3]._replace(data=made[3].data.replace(b"a1", b"a2"))]
    assert rules_of(dataclasses.replace(good, entries=other)) == {"decision"}


async def test_a_snapshot_says_what_it_covers(store: Store):
    """One that lost a word, and one that is ahead of the log."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    await log.snapshot()
    dump = await run_dumps.dump(store, log.run_id)
    assert dump.snapshot is not None
    assert verify(dump).states == 1
    cursor, state = dump.snapshot
    short = dataclasses.replace(dump, snapshot=(cursor, state.replace(b" w2", b"")))
    assert rules_of(short) == {"content"}
    ahead = dataclasses.replace(dump, snapshot=(cursor.next(), state))
    assert rules_of(ahead) == {"beginning"}
    assert rules_of(dataclasses.replace(dump, snapshot=(cursor, b"{"))) == {"content"}


async def test_dumps_come_back_byte_for_byte(store: Store):
    """Also what is no UTF-8; something else is refused in words."""
    log, dump = await written(store)
    await store.client.hset(log.keys.record, "odd", b"\xff\x00")
    dump = await run_dumps.dump(store, log.run_id)
    assert run_dumps.decode(run_dumps.encode(dump)) == dump
    for text in (b"{}", b"[1]", b"x", b'{"run_id":1,"record":{},"entries":[[1,2,3]],"snapshot":null}'):
        with pytest.raises(ValueError, match="not a dump"):
            run_dumps.decode(text)
    await transitions.forget(store, log.run_id)
    with pytest.raises(errors.NotFound):
        await run_dumps.dump(store, log.run_id)


def test_recorded_runs_of_earlier_versions_hold():
    """What versions 1 left behind is a history that this version's rules allow."""
    seen = 0
    for path in sorted(FIXTURES.glob("**/*.json")):
        stored = json.loads(path.read_text("utf-8"))
        if "keys" not in stored or "run_id" not in stored:
            continue
        run_id, found = stored["run_id"], stored["keys"]
        names = {name.rpartition(":")[2]: name for name in found if run_id.partition("_")[2] in name}
        if "log" not in names:
            continue
        snapshot = found.get(names.get("snapshot", ""))
        dump = Dump(
            run_id=run_id,
            record={name: value.encode() for name, value in found[names["record"]].items()},
            entries=[events.entry(a.encode(), {b.encode(): c.encode()}) for a, b, c in found[names["log"]]],
            snapshot=(Cursor(*map(int, snapshot["cursor"].split("-"))), snapshot["state"].encode())
            if snapshot
            else None,
        )
        assert not verify(dump).findings, path.name
        seen += 1
    assert seen >= 5


async def test_the_command_prints_what_it_found(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    """A run, a thread, a dump in a file; exit codes for scripts; nothing of the content."""
    monkeypatch.setenv("MAINSTEM_REDIS_URL", store_url)
    log, dump = await written(store, thread_id="talk")
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(run_dumps.encode(dump) + b"\n")
    bad.write_bytes(run_dumps.encode(without(dump, 5)) + b"\n")

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(build_app(["verify"]), ["verify", *arguments])
        return result.exit_code, result.output

    async def called(*arguments: str) -> tuple[int, str]:
        return await asyncio.to_thread(call, *arguments)

    for arguments in ([log.run_id], ["--thread", "talk"], ["--file", str(good)]):
        code, output = await called(*arguments)
        assert (code, "holds" in output) == (0, True), output
        assert "w1" not in output
    code, output = await called("--file", str(bad))
    assert (code, "gap at" in output) == (1, True)
    code, output = await called("--dump", log.run_id)
    assert run_dumps.decode(output.encode()) == dump
    assert (await called("--thread", "none"))[1] == "There is nothing to verify.\n"
    assert (await called())[0] == 2
    assert (await called("x"))[0] == 2
