"""The verbs in plain Python: one thread, its runs, their logs. What the Lua scripts must agree with.

Written from the state machine and the rules in docs/architecture.md, with none of the scripts' words: an
answer is the value that the typed verb returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason, Status, WaitingFor

ACTIVE = (Status.QUEUED, Status.RUNNING, Status.REQUIRES_ACTION)


@dataclass(kw_only=True)
class Run:
    """What the store knows of a run."""

    run_id: str
    if_active: str
    behind: str | None
    start_nonce: str
    status: Status = Status.QUEUED
    waiting: WaitingFor | None = None
    epoch: int = 1
    owner: str = ""
    task: str = ""
    nonce: str = ""
    stop: Reason | None = None
    reason: Reason | None = None
    segment: int = 0
    attempts: int = 0
    opens_with: str = "run.started"
    next_run: str | None = None
    action: str | None = None
    last_action: str | None = None
    inputs: list[str] = field(default_factory=list[str])
    texts: dict[str, str] = field(default_factory=dict[str, str])
    inputs_read: int = 0
    decided: dict[str, str] = field(default_factory=dict[str, str])
    snapshot: Cursor | None = None
    checkpoint: Cursor | None = None
    log: list[tuple[Cursor, str]] = field(default_factory=list[tuple[Cursor, str]])

    @property
    def top(self) -> Cursor:
        return self.log[-1][0]

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    def change_hands(self, kind: str, nonce: str) -> int:
        """Open a new epoch."""
        self.epoch = max(self.epoch, self.top.epoch) + 1
        self.log.append((Cursor(self.epoch, 0), kind))
        self.nonce = nonce
        return self.epoch

    def refused(self) -> transitions.Refused:
        return transitions.Refused(status=self.status, epoch=self.epoch)

    def controlled_by(self, epoch: int, owner: str) -> bool:
        return self.status is Status.RUNNING and (self.epoch, self.owner) == (epoch, owner)


class Model:
    """One thread."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.holder: str | None = None
        self.queue: list[str] = []

    def start(self, run_id: str, nonce: str, if_active: str) -> Any:
        if (known := self.runs.get(run_id)) is not None:
            if known.start_nonce != nonce:
                return transitions.Exists()
            waiting = WaitingFor.THREAD if known.behind else WaitingFor.WORKER
            return transitions.Started(waiting=waiting, active=known.behind or run_id)
        holder = self.holder
        if holder and if_active == "reject":
            return transitions.Busy(active=holder, queue_full=False)
        run = Run(run_id=run_id, if_active=if_active, behind=holder, start_nonce=nonce)
        run.log.append((Cursor(1, 0), "run.created"))
        run.waiting = WaitingFor.THREAD if holder else WaitingFor.WORKER
        superseded = self._take_place(run) if holder else None
        if not holder:
            self.holder = run_id
        self.runs[run_id] = run
        return transitions.Started(waiting=run.waiting, active=holder or run_id, superseded=superseded)

    def _take_place(self, run: Run) -> str | None:
        """Have a run wait for its turn; returns a waiting replacement that it replaces, too."""
        assert self.holder
        if run.if_active != "replace":
            self.queue.append(run.run_id)
            return None
        self._want_stopped(self.runs[self.holder], Reason.REPLACED)
        first = self.queue[0] if self.queue else None
        superseded = first if first and self.runs[first].if_active == "replace" else None
        if superseded:
            self._want_stopped(self.runs[superseded], Reason.REPLACED)
        self.queue.insert(0, run.run_id)
        return superseded

    @staticmethod
    def _want_stopped(run: Run, reason: Reason) -> None:
        run.stop = run.stop or reason

    def claim(self, run: Run, nonce: str, owner: str) -> Any:
        if run.nonce == nonce:
            return ("claimed", run.epoch, run.segment, len(run.inputs))
        if run.status is not Status.QUEUED or run.waiting is not WaitingFor.WORKER:
            return run.refused()
        if run.stop:
            return transitions.Stopping(reason=run.stop, epoch=run.epoch)
        run.change_hands(run.opens_with, nonce)
        run.status, run.waiting, run.owner, run.task = Status.RUNNING, None, owner, "task"
        run.segment += 1
        return ("claimed", run.epoch, run.segment, len(run.inputs))

    def append(self, run: Run, epoch: int, seq: int) -> bool:
        """Whether the server takes an entry with this id: only above the top."""
        if Cursor(epoch, seq) <= run.top:
            return False
        run.log.append((Cursor(epoch, seq), "message.delta"))
        return True

    def seal(self, run: Run, nonce: str, sealer: str, epoch: int) -> Any:
        if run.nonce != nonce:
            if run.status is not Status.RUNNING or run.epoch != epoch:
                return run.refused()
            run.change_hands("run.sealed", nonce)
            run.owner = sealer
        return transitions.Control(run_id=run.run_id, epoch=run.epoch, owner=sealer)

    def finish(self, run: Run, nonce: str, epoch: int, owner: str, top: Cursor, reason: Reason) -> Any:
        if run.nonce == nonce:
            return transitions.Finished(epoch=run.epoch, next_run=run.next_run)
        if not run.active:
            assert run.reason
            return transitions.Already(status=run.status, reason=run.reason)
        if (run.epoch, run.owner) != (epoch, owner):
            return run.refused()
        if run.top != top:
            return transitions.Moved(top=run.top)
        run.change_hands("run.finished", nonce)
        run.status, run.reason, run.waiting = reason.status, reason, None
        run.snapshot = run.checkpoint = None
        run.next_run = self._leave(run)
        return transitions.Finished(epoch=run.epoch, next_run=run.next_run)

    def _leave(self, run: Run) -> str | None:
        """Take a run that is over off the thread; returns who holds it now, if that is new."""
        if self.holder != run.run_id:
            self.queue = [waiting for waiting in self.queue if waiting != run.run_id]
            return None
        self.holder = self.queue.pop(0) if self.queue else None
        if self.holder:
            self.runs[self.holder].waiting = WaitingFor.WORKER
        return self.holder

    def handover(
        self, run: Run, nonce: str, epoch: int, owner: str, top: Cursor, *, resume_as: str, lost: bool
    ) -> Any:
        if run.nonce == nonce:
            return run.epoch
        if not run.controlled_by(epoch, owner):
            return run.refused()
        if run.top != top:
            return transitions.Moved(top=run.top)
        run.change_hands("run.queued", nonce)
        run.status, run.waiting, run.owner, run.task = Status.QUEUED, WaitingFor.WORKER, "", ""
        run.snapshot = run.top
        run.opens_with = resume_as
        run.attempts += lost
        return run.epoch

    def resync(self, run: Run, nonce: str, epoch: int, owner: str) -> Any:
        if run.nonce == nonce:
            return run.epoch
        if not run.controlled_by(epoch, owner):
            return run.refused()
        run.change_hands("resync", nonce)
        run.snapshot = run.top
        return run.epoch

    def save_snapshot(self, run: Run, epoch: int, owner: str, cursor: Cursor) -> bool:
        if not run.controlled_by(epoch, owner):
            return False
        if run.snapshot == cursor:
            return True
        if cursor > run.top or (run.snapshot and run.snapshot > cursor):
            return False
        if run.snapshot is not None:
            run.log = [entry for entry in run.log if entry[0] >= run.snapshot]
        run.snapshot = cursor
        return True

    def save_checkpoint(self, run: Run, epoch: int, owner: str, cursor: Cursor) -> Any:
        if not run.controlled_by(epoch, owner):
            return run.refused()
        if cursor > run.top or (run.checkpoint and run.checkpoint > cursor):
            return False
        run.checkpoint = cursor
        return True

    def pause(self, run: Run, nonce: str, epoch: int, owner: str, top: Cursor, action: str) -> Any:
        if run.nonce == nonce:
            return transitions.Paused(epoch=run.epoch)
        if not run.controlled_by(epoch, owner):
            return run.refused()
        if run.stop:
            return transitions.Stopping(reason=run.stop, epoch=run.epoch)
        if run.top != top:
            return transitions.Moved(top=run.top)
        run.change_hands("approval.required", nonce)
        run.status, run.owner, run.task = Status.REQUIRES_ACTION, "", ""
        run.action = run.last_action = action
        run.snapshot, run.checkpoint = run.top, top
        return transitions.Paused(epoch=run.epoch)

    def resolve(self, run: Run, nonce: str, action: str, digest: str) -> Any:
        if run.nonce == nonce:
            return transitions.Resolved(epoch=run.epoch)
        if action in run.decided:
            return transitions.Decided(same=run.decided[action] == digest)
        if run.status is not Status.REQUIRES_ACTION:
            return run.refused()
        if run.action != action:
            return transitions.Stale()
        if run.stop:
            return transitions.Stopping(reason=run.stop, epoch=run.epoch)
        run.change_hands("approval.resolved", nonce)
        run.status, run.waiting, run.opens_with = Status.QUEUED, WaitingFor.WORKER, "run.resumed"
        run.decided[action] = digest
        run.action = None
        return transitions.Resolved(epoch=run.epoch)

    def stop(self, run: Run, reason: Reason) -> Any:
        if not run.active:
            assert run.reason
            return transitions.Already(status=run.status, reason=run.reason)
        self._want_stopped(run, reason)
        assert run.stop
        return transitions.Intended(
            status=run.status, epoch=run.epoch, owner=run.owner, task_id=run.task, reason=run.stop
        )

    def steer(self, run: Run, input_id: str, text: str) -> Any:
        owner = run.owner if run.status is Status.RUNNING else ""
        if input_id in run.texts:
            if run.texts[input_id] != text:
                return transitions.Declined(why="reused")
            return ("accepted", run.inputs.index(input_id) + 1, owner)
        if run.status is Status.REQUIRES_ACTION and not run.stop:
            return transitions.Declined(why="paused")
        if not run.active or run.stop:
            return transitions.Declined(why="inactive", status=run.status)
        if len(run.inputs) + 1 - run.inputs_read > transitions.INPUTS_WAITING_LIMIT:
            return transitions.Declined(why="full")
        run.inputs.append(input_id)
        run.texts[input_id] = text
        return ("accepted", len(run.inputs), owner)

    def inbox(self, run: Run, epoch: int, owner: str, read: int, known: int) -> Any:
        if not run.controlled_by(epoch, owner):
            return run.refused()
        run.inputs_read = read
        return run.inputs[known:]

    def publish(self, run: Run, task: str) -> bool:
        if run.status is not Status.QUEUED:
            return False
        run.task = task
        return True

    def promote(self, run: Run) -> Any:
        """Whoever waits for the thread waits for somebody: nothing is lost here."""
        if run.status is not Status.QUEUED or run.waiting is not WaitingFor.THREAD:
            return None
        assert self.holder
        return transitions.Held(active=self.holder)

    def compact(self, run: Run) -> bool:
        if run.active:
            return False
        run.log = run.log[-1:]
        return True
