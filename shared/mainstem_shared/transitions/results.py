"""Results that several transitions share, and the control that callers prove to the server.

Every verb answers one of its own results, or one of these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason, Status

_STEP: Final = re.compile(r"([0-9]+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """No such run: it never was, or its retention is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The run is not in the state, or not under the control, that the caller thought."""

    status: Status
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The log's top is not where the caller's fold ends: read the rest, fold, try again."""

    top: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Newer:
    """The run's record is of a later version: for processes of that version to change."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Somebody asked to stop the run before it was claimed: finish it instead of running it."""

    reason: Reason
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Already:
    """The run was over before; its first outcome stands."""

    status: Status
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Control of a run: what finish, pause, handover, snapshot, resync and the like prove to the server.

    `owner` is a process incarnation; empty for a run that nobody runs (queued, or waiting for a human).
    `nonce` is that of the call that opened the epoch: it never repeats, an epoch may, if the store lost its
    last writes. Empty where the caller has not learnt it; then epoch and owner decide.
    """

    run_id: str
    epoch: int
    owner: str
    nonce: str = ""

    def is_held_by(self, claimed: Control) -> bool:
        """Tell whether somebody who believes to have control (`claimed`) has this one."""
        same = (self.epoch, self.owner) == (claimed.epoch, claimed.owner)
        return same and claimed.nonce in ("", self.nonce)


def step_of(nonce: str) -> int:
    """Return how far the epoch that a call opens lies after the one that it is made from (`_prelude.lua`)."""
    drawn = _STEP.match(nonce)
    return 1 + (int(drawn[1]) if drawn else 0)


def refused(reply: list[Any]) -> Refused:
    """Return what a verb's `refused` says."""
    return Refused(status=Status(reply[1].decode()), epoch=int(reply[2]))
