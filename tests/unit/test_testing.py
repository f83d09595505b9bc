"""`testing` keeps its word: an engine that passes on memory does the same in a worker."""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import given

from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.model import ids
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_tasks.testing import MemoryChannel
from support.models.emitting import SCRIPTS, perform

CONTROL = transitions.Control(run_id=ids.run_id("t", "t", uuid.UUID(int=1)), epoch=2, owner="me")


class SilentWriter:
    """The writer's place: every group lands at once."""

    def mark(self, channel: Channel) -> None:
        """Nothing: the test sends."""

    url = ""
    retry_later = moved = probe = resync = forget = mark

    def reconnect(self) -> None:
        """Nothing is ever connected."""

    def snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None:
        channel.snapshot_pending = False


@given(SCRIPTS)
def test_memory_and_log_fold_to_the_same_content(script: list[tuple[Any, ...]]):
    """Whatever an engine emits, content, steps, usage and title are those that a worker's channel makes."""
    memory, channel = MemoryChannel(), Channel(SilentWriter(), CONTROL, Content())
    for step in script:
        perform(step, memory)
        perform(step, channel)
    while channel.ready:
        channel.next_group()
        channel.landed()
    assert memory.fold.dump() == channel.fold.dump()


@given(SCRIPTS)
def test_events_on_memory_read_back_to_their_content(script: list[tuple[Any, ...]]):
    """The list of events is a log: its fold is the content, its cursors have no gap."""
    memory = MemoryChannel()
    for step in script:
        perform(step, memory)
    read, cursor = Content(), Cursor(1, 0)
    for event in memory.events:
        assert event.follows(cursor)
        cursor = event.cursor
        read.apply_entry(event)
    assert read.dump() == memory.fold.dump()
