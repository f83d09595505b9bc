"""The store's time, as a process learns it."""

from __future__ import annotations

import time

import pytest

from mainstem_shared.model.time import StoreClock, steady_ns

ROUND_MS = 60_000  # the clock is read twice, and a loaded machine may do something else in between
HOUR_MS = 3_600_000


def learn(clock: StoreClock, *, ahead_ms: float, took_ms: float = 0) -> None:
    """Answer a TIME that was asked so long ago with a time so far ahead of this machine's."""
    told_us = time.time_ns() // 1000 + int(ahead_ms * 1000)
    clock.learn(*divmod(told_us, 1_000_000), asked_ns=steady_ns() - int(took_ms * 1_000_000))


def ahead_ms(clock: StoreClock) -> int:
    return clock.now_ms() - time.time_ns() // 1_000_000


def test_before_anything_is_known_this_machines_clock_counts():
    clock = StoreClock()
    assert not clock.is_known
    assert abs(ahead_ms(clock)) <= ROUND_MS


@pytest.mark.parametrize("hours", [2, -2])
def test_a_store_with_another_time_is_followed(hours: int):
    clock = StoreClock()
    learn(clock, ahead_ms=hours * HOUR_MS)
    assert clock.is_known
    assert abs(ahead_ms(clock) - hours * HOUR_MS) <= ROUND_MS
    learn(clock, ahead_ms=0)
    assert abs(ahead_ms(clock)) <= ROUND_MS, "another primary, another clock"


def test_what_a_reply_does_not_disprove_stays():
    """Neither a few milliseconds nor a slow reply move the time."""
    clock = StoreClock()
    learn(clock, ahead_ms=0)
    known = clock._ahead_ns
    for difference, took in ((30, 0), (-30, 0), (-2000, 2500)):
        learn(clock, ahead_ms=difference, took_ms=took)
        assert clock._ahead_ns == known


def test_a_step_of_this_machines_clock_moves_nothing(monkeypatch: pytest.MonkeyPatch):
    clock = StoreClock()
    learn(clock, ahead_ms=0)
    before, real = clock.now_ms(), time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 2 * HOUR_MS * 1_000_000)
    assert 0 <= clock.now_ms() - before < 1000
