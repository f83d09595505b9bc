"""Warm and cold shutdowns: in order, bounded, nothing lost that the broker still has."""

from __future__ import annotations

import signal
import time

import pytest

from support.together import Together
from support.waiting import wait_until

together = Together()


@pytest.fixture(scope="module")
def at_once(request, make_workers):
    with together.run(request, make_workers) as running:
        yield running


HOOKS = ["second hook", "first hook"]


@together
def test_warm_shutdown_waits_for_running_tasks(make_worker):
    """A warm shutdown lets running tasks end, stores their results, then runs the hooks, last added first."""
    worker = make_worker("-c", "4")
    early, late = worker.send("nap", 2), worker.send("late_nap", 2)
    worker.noted(early, "started")
    worker.noted(late, "started")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert early.get(timeout=30) == late.get(timeout=30) == "rested"
    assert worker.hooks() == HOOKS
    assert worker.queue_length() == 0
    assert "pool shutdown hook failed" in worker.log  # the failing hook between them, which stops nobody


@together
def test_grace_ends_with_a_cancellation(make_worker):
    """After the grace time tasks are cancelled with the cause SHUTDOWN; they clean up before the hooks.

    A body that catches the cancellation and returns has succeeded, an unacknowledged message (`acks_late`)
    is in the queue again, any other task has failed with ShutdownError.
    """
    worker = make_worker("-c", "4", POOLAPP_GRACE="0.5")
    cut, catching, late = (
        worker.send("nap", 60, 0.5),
        worker.send("stubborn", 60),
        worker.send("late_nap", 60),
    )
    for result in (cut, catching, late):
        worker.noted(result, "started")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.journal(cut) == ["started", "cancelled shutdown", "cleaned"]
    assert worker.hooks() == HOOKS
    assert cut.state == "FAILURE"
    assert type(cut.result).__name__ == "ShutdownError"
    assert catching.get() == "done anyway"
    assert worker.journal(late) == ["started", "cancelled shutdown"]
    assert worker.queue_length() == 1


@together
def test_waiting_tasks_go_back(make_worker):
    """Tasks that wait for a slot at shutdown are not started and not lost, also without `acks_late`."""
    worker = make_worker("-c", "1", POOLAPP_GRACE="0.2")
    _, waiting = worker.fill_up(3)
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert [worker.journal(result) for result in waiting] == [[], [], []]
    assert worker.queue_length() == 3


@together
def test_cold_shutdown_is_bounded(make_worker):
    """A cold shutdown cancels at once with the cause SHUTDOWN; an endless body does not hold it up."""
    worker = make_worker("-c", "4", POOLAPP_CANCEL_GRACE="1")
    result, endless, late = (
        worker.send("nap", 60, 0.3),
        worker.send("nap", 60, 300),
        worker.send("late_nap", 60),
    )
    for sent in (result, endless, late):
        worker.noted(sent, "started")
    began = time.monotonic()
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert time.monotonic() - began < 40
    assert worker.journal(result) == ["started", "cancelled shutdown", "cleaned"]
    assert worker.journal(endless) == worker.journal(late) == ["started", "cancelled shutdown"]
    assert worker.queue_length() == 1  # the unacknowledged one
    assert worker.hooks() == HOOKS
    assert "tasks did not end at shutdown and are abandoned" in worker.log


@together
def test_cold_shutdown_ends_a_warm_one(make_worker):
    """SIGQUIT during a warm shutdown ends its grace time."""
    worker = make_worker("-c", "4", POOLAPP_GRACE="60")
    result = worker.send("nap", 60)
    worker.noted(result, "started")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in worker.log, description="the warm shutdown to begin")
    time.sleep(1.5)  # the main thread notices the flag within a second; nothing tells when
    began = time.monotonic()
    worker.signal(signal.SIGQUIT)
    worker.wait()
    assert time.monotonic() - began < 40
    assert worker.journal(result) == ["started", "cancelled shutdown"]
    assert worker.hooks() == HOOKS


@together
def test_hanging_thread_does_not_hold_up_a_shutdown(make_worker):
    """A plain task that hangs is abandoned: the process ends."""
    worker = make_worker("-c", "4", POOLAPP_GRACE="0.2", POOLAPP_CANCEL_GRACE="0.5")
    result = worker.send("plain", 300)
    wait_until(lambda: "prerun" in worker.signals(result), description="the thread to run")
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert time.monotonic() - began < 40


@together
def test_acks_flow_while_draining(make_worker):
    """A late acknowledgement of a task that ends during the drain does not wait for the drain's end."""
    worker = make_worker("-c", "4")
    short, long = worker.send("late_nap", 1.5), worker.send("nap", 4)
    worker.noted(short, "started")
    worker.noted(long, "started")
    worker.signal(signal.SIGTERM)
    assert short.get(timeout=30) == "rested"
    wait_until(lambda: worker.unacknowledged() == 0, description="the acknowledgement", timeout_s=10)
    assert not worker.exited
    assert worker.wait() == 0
    assert long.state == "SUCCESS"


@together
def test_revoked_cleanup_completes_while_draining(make_worker):
    """A revoked task whose cleanup still awaits completes it during a warm shutdown."""
    worker = make_worker("-c", "4", "-E")
    result = worker.send("nap", 60, 2.0)
    worker.noted(result, "started")
    result.revoke(terminate=True)
    worker.noted(result, "cancelled revoked")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.journal(result) == ["started", "cancelled revoked", "cleaned"]
    assert result.state == "REVOKED"
