"""What must hold when the dust has settled; each check counts itself under the name of its property."""

from __future__ import annotations

import collections
import itertools
from typing import Any

from chaos.load import Started
from chaos.system import System
from mainstem_shared.model import events, jsontext
from mainstem_shared.model.contents import fold
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.verification import Dump, verify
from mainstem_shared.operations.ending import close_open_calls
from mainstem_shared.store import keys
from support.engines.demowords import demo_text
from support.models import listed
from support.processes.routed_clients import RoutedClient
from support.waiting import NotInTimeError, wait_until_async

CLEAN_S = 20.0
ENDINGS = {"completed", "worker_lost", "user_abort", "replaced", "shutdown"}
SEGMENT_BEGINS = {Type.STARTED, Type.RESUMED, Type.RESTARTED}
PERMANENT = {*(index for bucket in keys.INDEXES for index in bucket), keys.WORKERS, keys.ENGINES, keys.SHARD}
BROKER_FIXTURES = ("_kombu.binding",)
UNACKED, UNACKED_INDEX = "unacked", "unacked_index"


class Properties:
    """Checks a system that has come to rest, against what its clients saw."""

    def __init__(self, system: System, started: list[Started]) -> None:
        self.checked: collections.Counter[str] = collections.Counter()
        self._system = system
        self._started = started
        self._store = RoutedClient(system.store.url(0), text=False)

    def close(self) -> None:
        self._store.close()

    async def come_to_rest(self) -> None:
        """Wait until sweeps are through, and nothing is left of runs that are over."""
        await self._system.ready()
        for name, left in (
            ("nothing is left in the indexes", self.leftovers),
            ("nothing is left in the broker", self.broker_leftovers),
        ):
            try:
                await wait_until_async(lambda left=left: not left(), description="rest", timeout_s=CLEAN_S)
            except NotInTimeError:
                raise AssertionError(f"left: {self.leftovers()} {self.broker_leftovers()}") from None
            self.checked[name] += 1

    def check_all(self) -> None:
        for run in self._started:
            self.check_run(run)
        assert self.checked["what a snapshot covers is trimmed"], "no run was long enough"
        self._check_threads()
        self._check_starts()

    def check_run(self, run: Started) -> None:
        """Check one run that is over, and what its readers saw."""
        self._check_end(run, self._record(run))
        log = self._log(run)
        self._check_log(run, log)
        self._verify(run, log)
        self._check_readers(run, log)

    def _record(self, run: Started) -> dict[str, str]:
        found: Any = self._store.hgetall(keys.run(run.run_id).record)
        return {name.decode(): value.decode() for name, value in found.items() if name != b"input"}

    def _verify(self, run: Started, log: list[Entry]) -> None:
        """What an operator's `mainstem verify` says."""
        found: Any = self._store.hgetall(keys.run(run.run_id).record)
        record = {name.decode(): value for name, value in found.items()}
        verdict = verify(Dump(run_id=run.run_id, record=record, entries=log))
        assert not verdict.findings, verdict
        self.checked["a history is one that the protocol allows"] += 1
        self.checked["an end says what the entries before it add up to"] += verdict.states

    def _log(self, run: Started) -> list[Entry]:
        found: Any = self._store.xrange(keys.run(run.run_id).log)
        return [events.entry(raw_id, fields) for raw_id, fields in found]

    # -- each run

    def _check_end(self, run: Started, record: dict[str, str]) -> None:
        assert record, f"{run.run_id} was acknowledged and is gone"
        assert record["status"] in ("succeeded", "failed", "aborted"), record
        assert record["reason"] in ENDINGS, record
        self.checked["every run is terminal"] += 1
        self.checked[f"ended: {record['reason']}"] += 1
        self.checked["ended: completed, elsewhere than begun"] += (
            record["reason"] == "completed" and "attempts" in record
        )
        if run.abort_reached == "aborted":
            assert record["status"] == "aborted", f"{run.run_id}: {record}"
            self.checked["what an abort reached is so"] += 1

    def _check_log(self, run: Started, log: list[Entry]) -> None:
        assert log, f"{run.run_id} has no log"
        for before, entry in itertools.pairwise(log):
            assert entry.follows(before.cursor), f"{run.run_id}: {entry.cursor} after {before.cursor}"
            self.checked["an entry follows the one before it"] += 1
        assert [entry.type for entry in log].count(Type.FINISHED) == 1
        assert log[-1].type == Type.FINISHED, f"{run.run_id}: {log[-1]} after the end"
        self.checked["nothing comes after run.finished"] += 1
        self._check_owners(run, log)
        final = log[-1].payload()
        if log[0].cursor == Cursor(1, 0):
            folded = fold(log[:-1])
            if final["reason"] != "completed":
                close_open_calls(folded)
            assert folded.dump()["content"] == final["content"]
            self.checked["the whole log folds to the final content"] += 1
        else:
            self.checked["what a snapshot covers is trimmed"] += 1
        text = events.text_of(final["content"])
        whole = demo_text(run.tokens)
        assert text == whole if final["reason"] == "completed" else whole.startswith(text), run
        self.checked["the text has every word once, in order"] += 1

    def _check_owners(self, run: Started, log: list[Entry]) -> None:
        """Epochs grow and each has one owner: nothing of a former owner follows a change of control."""
        opener: Entry | None = None
        for entry in log:
            if entry.cursor.is_control:
                assert opener is None or entry.cursor.epoch > opener.cursor.epoch
                opener = entry
                self.checked["epochs grow"] += 1
            elif opener is not None:
                assert opener.type in SEGMENT_BEGINS or opener.type == Type.RESYNC, (run.run_id, opener)
                self.checked["only an owner writes, in its epoch"] += 1
        kinds = collections.Counter(entry.type for entry in log)
        if log[0].cursor == Cursor(1, 0):
            claims = sum(kinds[kind] for kind in SEGMENT_BEGINS)
            given_back = kinds[Type.QUEUED] + kinds[Type.APPROVAL_RESOLVED]
            assert claims <= 1 + given_back, f"{run.run_id} went on without being given back"
        self.checked["each segment has one claim"] += 1

    def _check_readers(self, run: Started, log: list[Entry]) -> None:
        kept = {entry.cursor: entry for entry in log}
        for reader in run.readers:
            assert reader.over
            for cursor, seen in reader.seen.items():
                if seen.type == Type.SNAPSHOT:
                    continue
                if cursor >= log[0].cursor:
                    entry = kept.get(cursor)
                    assert entry is not None, f"{run.run_id}: {cursor} was seen by a reader and is lost"
                    assert seen.type == entry.type
                    assert seen.data == events.presented(entry.type, entry.data)
                self.checked["an event that was seen is in the log, once"] += 1
            self.checked["a reader has the whole run"] += 1
        first, *others = run.readers
        for other in others:
            for cursor in first.seen.keys() & other.seen.keys():
                mine, theirs = first.seen[cursor], other.seen[cursor]
                if Type.SNAPSHOT not in (mine.type, theirs.type):
                    assert mine == theirs
                    self.checked["readers see the same event"] += 1

    # -- all runs

    def _check_threads(self) -> None:
        """On one thread, runs work one after the other."""
        spans: dict[str, list[tuple[int, int, str]]] = collections.defaultdict(list)
        for run in self._started:
            record = self._record(run)
            if "started" in record:
                span = (int(record["started"]), int(record["finished"]), run.run_id)
                spans[run.thread_id].append(span)
        for shared in spans.values():
            for (_, end, one), (begin, _, other) in itertools.pairwise(sorted(shared)):
                assert begin >= end, f"{other} began before {one} was over"
                self.checked["a thread has one run at a time"] += 1

    def _check_starts(self) -> None:
        """Repeated starts made no second run."""
        records = set(self._store.scan_iter("ms:*:record", count=1000))
        mine = {keys.run(run.run_id).record.encode() for run in self._started}
        assert records == mine, "runs that nobody was told of"
        self.checked["a start makes one run"] += len(mine)

    # -- what is left

    def leftovers(self) -> list[str]:
        """What a store at rest must not hold. Empty, once all sweeps are through."""
        owners = {name.decode() for name in self._store.zrange(keys.WORKERS, 0, -1)}
        alive = len(self._system.workers) + len(self._system.gateways)
        found = [f"active: {run}" for run in listed.scores_now(self._store, "active")]
        found += [f"owned: {key.decode()}" for key in self._store.scan_iter("ms:{w:*:runs", count=1000)]
        if len(owners) != alive:
            found.append(f"{len(owners)} processes are listed, {alive} live")
        return found

    def broker_leftovers(self) -> list[str]:
        """What a broker at rest must not hold."""
        with self._system.broker.client() as client:
            names = {str(key) for key in client.scan_iter(count=1000)}
            unacked = set(client.hkeys(UNACKED))
            if unacked == set(client.zrange(UNACKED_INDEX, 0, -1)):
                # What a killed worker had read. The broker delivers it once more, later; the claim refuses it.
                names -= {UNACKED, UNACKED_INDEX}
        return [name for name in names if not name.startswith(BROKER_FIXTURES)]

    def check_store(self) -> None:
        """Every key ends by itself; of finished runs only record and log are left."""
        for raw in self._store.scan_iter(count=1000):
            key = raw.decode()
            assert key in PERMANENT or self._store.ttl(raw) != -1, f"{key} lives for ever"  # -2: it is over
            assert not key.endswith((":snapshot", ":checkpoint", ":slots")), f"{key} outlived its run"
            self.checked["a key has a time to live"] += 1
        for run in self._started:
            thread = keys.run(run.run_id)
            assert not self._store.hexists(thread.thread, "active"), f"{run.thread_id} is held"
            assert not self._store.exists(thread.thread_queue)
            self.checked["a thread is free"] += 1

    def check_stopped(self) -> None:
        """After all processes have stopped nothing of them is left."""
        assert self._store.zcard(keys.WORKERS) == 0
        assert not list(self._store.scan_iter("ms:{w:*:lease", count=1000))
        self.checked["a stopped process leaves no lease"] += 1

    def explain(self) -> str:
        """Describe the runs that are not over, for a failure's report."""
        lines: list[str] = []
        for run in self._started:
            if not run.over:
                record = self._record(run)
                log = self._log(run)
                control = [f"{e.cursor} {e.type}" for e in log if e.cursor.is_control]
                at = [f"{r.cursor}, {r.refusals} refusals" for r in run.readers]
                fields = {name: value for name, value in record.items() if name != "spec"}
                lines.append(f"{run.run_id}: {jsontext.dumps(fields).decode()} {control} readers {at}")
        return "\n".join(lines)
