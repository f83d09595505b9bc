"""Predicts a run's record from its events, and the attach point that `attaching.read` must return."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_shared import transitions
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import cursors, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Spec, Status

RUN = "a2b3c4d5e6f7g2h3_aaaaaaaaaaaaaaaaaaaaaaaaaa"
SPEC = Spec(
    run_id=RUN,
    thread_id="thread",
    user_id="local",
    tenant="default",
    engine="demo",
    metadata={"openai": {"model": "a-model", "metadata": {"k": "v"}}},
    created_ms=1_795_000_000_000,
    max_duration_s=60,
)
NEW = AttachPoint(
    spec=SPEC,
    status=Status.QUEUED,
    started=False,
    fold=Content(),
    cursor=cursors.START,
    outcome=None,
    pauses=(),
    restarts=0,
    finished_ms=None,
)


def fresh(attach_point: AttachPoint) -> AttachPoint:
    """A copy for one reader, who changes its fold."""
    fold = Content()
    fold.load(jsontext.loads(jsontext.dumps(attach_point.fold.dump())))
    return dataclasses.replace(attach_point, fold=fold)


class Record:
    """What a run's record says after some of its events: a model of the verbs."""

    def __init__(self) -> None:
        self.fold = Content()
        self.started = False
        self.status = Status.QUEUED
        self.restarts = 0
        self.pauses: list[dict[str, Any]] = []
        self.outcome: dict[str, Any] | None = None
        self._mark: dict[str, Any] | None = None
        self._asked: dict[str, Any] | None = None

    def take(self, frame: Frame) -> None:
        data = frame.payload()
        if frame.type == Type.APPROVAL_REQUIRED:
            self._mark, self._asked = json.loads(json.dumps(transitions.mark(self.fold))), data["action"]
            self.status = Status.REQUIRES_ACTION
        elif frame.type in (Type.APPROVAL_RESOLVED, Type.APPROVAL_EXPIRED):
            self.pauses.append({**data, "asked": self._asked, "mark": self._mark})
            self.status = Status.QUEUED
        elif frame.type in (Type.STARTED, Type.RESUMED, Type.RESTARTED):
            self.started, self.status = True, Status.RUNNING
        if frame.type == Type.RESYNC or (frame.type == Type.RESTARTED and "content" in data):
            self.restarts += 1
        if frame.type == Type.FINISHED:
            self.status, self.outcome = Status(data["status"]), data
        self.fold.apply(frame.type, data)

    def attach_point(self) -> AttachPoint:
        """As of now; nothing of it changes later."""
        return fresh(
            dataclasses.replace(
                NEW,
                status=self.status,
                started=self.started,
                fold=self.fold,
                outcome=self.outcome,
                pauses=tuple(self.pauses),
                restarts=self.restarts,
            )
        )
