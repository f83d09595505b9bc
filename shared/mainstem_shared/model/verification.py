"""Verifies that a run's record, log and snapshot obey the protocol.

The rules are those of `tests/model/invariants.py`, for one run at rest: a dump of its record, its log and its
snapshot, read at one moment. Rule by rule, with the sentence that a finding quotes:

- *gap*: each entry follows the one before it, by the cursor algebra.
- *beginning*: the log begins with `run.created`, or what is missing before it is in the snapshot or the end.
- *order*: control entries follow each other as the life of a run allows, and nothing follows the end.
- *outside*: an engine's events stand only where a worker has the run.
- *segment*: each claim counts one further than the claim before it.
- *decision*: an action is decided at most once, and only while the run waits for it.
- *record*: status, epoch, reason and segment are those that the log's last control entries say.
- *content*: a snapshot, and the end, say what the entries before them add up to; only a `resync`, which
  readers see, may say something else. The end may go on where they stop: a fail-over that lost the end and
  the last entries before it has the end made again, and that says all of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_shared.model import contents, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import STATES, Entry, Type
from mainstem_shared.model.runs import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """What the store holds of one run, as of one moment.

    `record` has the stored fields (see `model.record`), `entries` the whole log in order, `snapshot` the
    cursor and the encoded state, if there is one.
    """

    run_id: str
    record: Mapping[str, bytes]
    entries: Sequence[Entry]
    snapshot: tuple[Cursor, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation: the rule's name, the place, and what is stored there."""

    rule: str
    at: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verifying one run showed. `states`: how many states were compared with what they summarise."""

    run_id: str
    status: str
    entries: int
    states: int
    findings: list[Finding] = field(default_factory=list[Finding])


_RUNNING: Final = frozenset({Type.STARTED, Type.RESUMED, Type.RESTARTED})
_UNKNOWN: Final = "unknown"
# What a control entry makes of a run, and where it may stand. `run.sealed` and `resync` leave it running.
_NEXT: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    Type.CREATED: ("queued", frozenset({"nothing"})),
    Type.STARTED: ("running", frozenset({"queued"})),
    Type.RESUMED: ("running", frozenset({"queued"})),
    Type.RESTARTED: ("running", frozenset({"queued"})),
    Type.QUEUED: ("queued", frozenset({"running", "sealed"})),
    Type.SEALED: ("sealed", frozenset({"running", "sealed"})),
    Type.RESYNC: ("running", frozenset({"running"})),
    Type.APPROVAL_REQUIRED: ("requires_action", frozenset({"running"})),
    Type.APPROVAL_RESOLVED: ("queued", frozenset({"requires_action"})),
    Type.APPROVAL_EXPIRED: ("queued", frozenset({"requires_action"})),
    Type.FINISHED: ("over", frozenset({"queued", "running", "sealed", "requires_action"})),
}
_STATUS: Final = {
    "queued": Status.QUEUED,
    "requires_action": Status.REQUIRES_ACTION,
    "sealed": Status.RUNNING,
}
_DECIDED: Final = frozenset({Type.APPROVAL_RESOLVED, Type.APPROVAL_EXPIRED})


def verify(dump: Dump) -> Verdict:
    """Compare a run's dump with the rules of this module."""
    content = _Contents(dump)
    findings = [*_chain(dump), *_beginning(dump), *_life(dump), *content.findings()]
    return Verdict(
        run_id=dump.run_id,
        status=_text(dump, "status"),
        entries=len(dump.entries),
        states=content.compared,
        findings=findings,
    )


def _text(dump: Dump, name: str) -> str:
    return dump.record.get(name, b"").decode(errors="replace")


def _payload(entry: Entry) -> dict[str, Any]:
    try:
        return entry.payload()
    except ValueError:
        return {}  # a damaged entry changes nothing for its readers; its place in the order still counts


def _chain(dump: Dump) -> Iterator[Finding]:
    for before, after in itertools.pairwise(dump.entries):
        if not after.follows(before.cursor):
            yield Finding("gap", str(after.cursor), f"{after.type} does not follow {before.cursor}")


def _beginning(dump: Dump) -> Iterator[Finding]:
    if not dump.entries:
        yield Finding("beginning", str(START), "the run has a record, and no log")
        return
    first = dump.entries[0]
    covered = dump.snapshot is not None and first.cursor <= dump.snapshot[0]
    over = dump.entries[-1].type == Type.FINISHED  # whose payload is the whole content
    if first.type not in {Type.CREATED, Type.RESYNC} and not covered and not over:
        yield Finding(
            "beginning", str(first.cursor), f"the log begins with {first.type}, and no snapshot covers it"
        )
    if dump.snapshot is not None and dump.snapshot[0] > dump.entries[-1].cursor:
        yield Finding("beginning", str(dump.snapshot[0]), "the snapshot is ahead of the log")


def _life(dump: Dump) -> Iterator[Finding]:
    """Walk the control entries: each stands where a run's life allows it, and the last is the record's."""
    life = _Life()
    if dump.entries and dump.entries[0].type != Type.CREATED:
        life.where = _UNKNOWN  # the entries before it were dropped: they are in a snapshot
    for entry in dump.entries:
        yield from life.step(entry)
    if dump.entries:
        yield from _compared(dump, life)


class _Life:
    """Where a run is, as its log tells."""

    def __init__(self) -> None:
        self.where = "nothing"
        self.segment: int | None = None
        self.action: str | None = None
        self.end: dict[str, Any] = {}

    def step(self, entry: Entry) -> Iterator[Finding]:
        if self.where == "over":
            yield Finding("order", str(entry.cursor), f"{entry.type} stands behind the end")
        if entry.type in _NEXT:
            yield from self._control(entry)
        elif self.where not in {"running", _UNKNOWN}:
            yield Finding("outside", str(entry.cursor), f"{entry.type} while the run is {self.where}")

    def _control(self, entry: Entry) -> Iterator[Finding]:
        where, allowed = _NEXT[entry.type]
        if self.where not in {*allowed, _UNKNOWN, "over"}:
            yield Finding("order", str(entry.cursor), f"{entry.type} while the run is {self.where}")
        payload = _payload(entry)
        if entry.type in _RUNNING:
            yield from self._claimed(entry, payload.get("segment"))
        elif entry.type == Type.APPROVAL_REQUIRED:
            action: dict[str, Any] = payload.get("action") or {}
            self.action = action.get("action_id")
        elif entry.type in _DECIDED:
            if self.where != _UNKNOWN and payload.get("action_id") != self.action:
                yield Finding(
                    "decision", str(entry.cursor), f"decides {payload.get('action_id')}, not {self.action}"
                )
            self.action = None
        elif entry.type == Type.FINISHED:
            self.end = payload
        self.where = where

    def _claimed(self, entry: Entry, segment: int | None) -> Iterator[Finding]:
        if segment is not None and self.segment is not None and segment != self.segment + 1:
            yield Finding("segment", str(entry.cursor), f"segment {segment} follows segment {self.segment}")
        self.segment = segment


def _compared(dump: Dump, life: _Life) -> Iterator[Finding]:
    top = dump.entries[-1].cursor
    said: dict[str, Any] = {"epoch": top.epoch}
    if life.where == "over":
        said |= {name: life.end[name] for name in ("status", "reason") if name in life.end}
    elif life.where != _UNKNOWN:
        said["status"] = _STATUS.get(life.where, Status.RUNNING)
    if life.segment is not None:
        said["segment"] = life.segment
    for name, value in said.items():
        if _text(dump, name) != str(value):
            yield Finding("record", str(top), f"{name} is {_text(dump, name)!r}, the log says {str(value)!r}")


class _Contents:
    """Folds the log, and compares each state with the fold of what stands before it."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self.compared = 0

    def findings(self) -> Iterator[Finding]:
        entries = self._dump.entries
        known = bool(entries) and entries[0].type == Type.CREATED
        content = Content()
        if not known and self._dump.snapshot is None and len(entries) > 1:
            return
        for entry in entries:
            if known and entry.type == Type.FINISHED:
                yield from self._compare(content, entry.data, entry.cursor, "the end", may_go_on=True)
            content.apply_entry(entry)
            known = known or entry.type in STATES
            if known and self._dump.snapshot is not None and entry.cursor == self._dump.snapshot[0]:
                yield from self._compare(content, self._dump.snapshot[1], entry.cursor, "the snapshot")
                content.restore(self._dump.snapshot[1])
            elif self._dump.snapshot is not None and entry.cursor == self._dump.snapshot[0]:
                content.restore(self._dump.snapshot[1])
                known = True

    def _compare(
        self, content: Content, state: bytes, cursor: Cursor, name: str, *, may_go_on: bool = False
    ) -> Iterator[Finding]:
        self.compared += 1
        try:
            stored = _outline(jsontext.loads(state)["content"])
        except contents.UNREADABLE as error:
            yield Finding("content", str(cursor), f"{name} cannot be read: {type(error).__name__}")
            return
        folded = _outline(content.dump()["content"])
        fits = stored == folded or (may_go_on and _goes_on(folded, stored))
        if not fits and not content.damaged:
            yield Finding(
                "content", str(cursor), f"{name} differs from the entries before it {_where(folded, stored)}"
            )


def _outline(content: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what of a content an end may not change: text, and which other parts there are, in order."""
    return [
        (
            part["type"],
            part["text"] if part["type"] in {"text", "reasoning"} else str(part.get("call_id", "")),
        )
        for part in content
    ]


def _goes_on(folded: list[tuple[str, str]], stored: list[tuple[str, str]]) -> bool:
    """Tell whether a stored outline begins with all of a folded one, whose last text may be cut short."""
    if not folded:
        return True
    if len(stored) < len(folded):
        return False
    *whole, (kind, text) = folded
    if whole != stored[: len(whole)] or kind != stored[len(whole)][0]:
        return False
    ended = stored[len(whole)][1]
    return ended.startswith(text) if kind in {"text", "reasoning"} else ended == text


def _where(folded: list[tuple[str, str]], stored: list[tuple[str, str]]) -> str:
    number = next(
        (n for n, (a, b) in enumerate(zip(folded, stored, strict=False)) if a != b),
        min(len(folded), len(stored)),
    )
    return f"at part {number}: {_sizes(folded, number)} folded, {_sizes(stored, number)} stored"


def _sizes(parts: list[tuple[str, str]], number: int) -> str:
    """Describe a part without quoting it: findings are printed and logged, and content is a user's."""
    return f"{parts[number][0]} of {len(parts[number][1])} characters" if number < len(parts) else "nothing"
