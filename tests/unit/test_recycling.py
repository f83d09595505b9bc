"""When a worker process ends itself: by age, by size, once, and never a child of prefork."""

from __future__ import annotations

import os
import signal
import time

import pytest

from mainstem_shared.settings import Settings
from mainstem_workers import recycling
from mainstem_workers.recycling import Recycling


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What would have been sent, and to whom."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    return sent


def aged(watched: Recycling, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic() + seconds
    monkeypatch.setattr(recycling.time, "monotonic", lambda: later)
    watched.check()


@pytest.mark.parametrize(
    ("limits", "age_s", "size_mb", "ends"),
    [
        ({"recycle_after_s": 100}, 79, 0, False),
        ({"recycle_after_s": 100}, 101, 0, True),
        ({"recycle_rss_mb": 500}, 61, 501, True),
        ({"recycle_rss_mb": 500}, 61, 499, False),
        ({"recycle_rss_mb": 500}, 59, 501, False),
        ({}, 1e9, 1e9, False),
    ],
    ids=["young", "old", "large", "small", "large at its birth", "no limit"],
)
def test_a_worker_ends_itself_once(limits, age_s, size_mb, ends, signals, monkeypatch):
    watched = Recycling(Settings(**limits), pool="asyncio")
    monkeypatch.setattr(recycling, "rss_mb", lambda: size_mb)
    aged(watched, age_s, monkeypatch)
    watched.check()
    assert signals == ([(os.getpid(), signal.SIGTERM)] if ends else [])


def test_children_of_prefork_are_celerys_to_recycle(signals, monkeypatch):
    watched = Recycling(Settings(recycle_after_s=1), pool="prefork")
    aged(watched, 100, monkeypatch)
    assert signals == []


def test_the_size_of_a_process_is_known_here():
    assert recycling.rss_mb() > 10
