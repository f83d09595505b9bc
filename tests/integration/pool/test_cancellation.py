"""Revokes and time limits: one cancellation with a cause, one announcement, cleanup left alone."""

from __future__ import annotations

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from support.waiting import wait_until


def test_revoke_running(shared_worker, events):
    """A terminated task is cancelled with the cause REVOKED, announced as revoked once, and nothing else."""
    result = shared_worker.send("nap", 30)
    shared_worker.noted(result, "started")
    result.revoke(terminate=True)
    assert shared_worker.noted(result, "cancelled revoked") == ["started", "cancelled revoked"]
    with pytest.raises(TaskRevokedError):
        result.get(timeout=10)
    assert events.wait_for(result, "task-revoked")["terminated"] is True
    wait_until(lambda: "postrun" in shared_worker.signals(result), description="the tracer to end")
    assert sorted(shared_worker.signals(result)) == ["postrun", "prerun", "revoked terminated=True"]
    shared_worker.get("noop", ignore_result=False)  # whatever the callbacks had to say is said
    assert events.types(result) == ["task-started", "task-revoked"]
    assert result.state == "REVOKED"


def test_revoke_before_start(shared_worker, events):
    """A task revoked before its time is dropped when a worker looks at it."""
    result = shared_worker.send("nap", 0, countdown=1.0)
    events.wait_for(result, "task-received")
    result.revoke()
    assert events.wait_for(result, "task-revoked")["terminated"] is False
    assert shared_worker.journal(result) == []


def test_revoke_twice_during_cleanup(shared_worker, events):
    """A `finally` that awaits completes although the task is revoked again meanwhile."""
    result = shared_worker.send("nap", 30, 1.0)
    shared_worker.noted(result, "started")
    result.revoke(terminate=True)
    shared_worker.noted(result, "cancelled revoked")
    result.revoke(terminate=True)
    result.revoke(terminate=True, signal="SIGKILL")
    assert shared_worker.noted(result, "cleaned") == ["started", "cancelled revoked", "cleaned"]
    assert events.types(result).count("task-revoked") == 1


@pytest.mark.parametrize("end", ["return", "raise"])
def test_end_after_a_revoke_is_not_announced(shared_worker, events, end):
    """What a body that swallows its cancellation returns or raises changes neither state nor events."""
    result = shared_worker.send("stubborn", 30, end)
    shared_worker.noted(result, "started")
    result.revoke(terminate=True)
    shared_worker.noted(result, "swallowed revoked")
    wait_until(lambda: "postrun" in shared_worker.signals(result), description="the tracer to end")
    shared_worker.get("noop")
    assert events.types(result) == ["task-started", "task-revoked"]
    assert "success" not in shared_worker.signals(result)
    assert result.state == "REVOKED"


def test_soft_time_limit(shared_worker):
    """The soft limit raises SoftTimeLimitExceeded where the body waits; unhandled it fails the task."""
    result = shared_worker.send("nap", 30, soft_time_limit=1)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=10)
    assert shared_worker.journal(result) == ["started", "soft soft_time_limit"]


def test_soft_time_limit_handled(shared_worker):
    """A body may handle its soft limit and succeed; an `asyncio.timeout` around it does not mistake it."""
    assert shared_worker.get("soft_handler", soft_time_limit=1) == "handled soft_time_limit"


def test_soft_time_limit_survives_a_child_that_swallows(shared_worker):
    """A child task that swallows the cancel does not swallow the soft limit."""
    assert shared_worker.get("soft_swallowing_child", soft_time_limit=1) == "handled"


def test_hard_time_limit(shared_worker, events):
    """The hard limit fails the task at once, cancels the body with its cause, and is announced once."""
    result = shared_worker.send("nap", 30, 0.3, time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    shared_worker.noted(result, "cancelled hard_time_limit", "cleaned")
    shared_worker.get("noop")
    assert events.types(result) == ["task-started", "task-failed"]
    assert result.state == "FAILURE"


def test_hard_limit_after_handled_soft_limit(shared_worker):
    """A soft limit is no cancellation: the hard limit still cancels."""
    result = shared_worker.send("nap", 30, 30, soft_time_limit=1, time_limit=2)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)


def test_revoked_plain_task_can_ask(shared_worker, events):
    """A plain body, which nothing can interrupt, learns that it was revoked; its result is dropped."""
    result = shared_worker.send("busy", 20)
    events.wait_for(result, "task-started")
    result.revoke(terminate=True)
    wait_until(lambda: "postrun" in shared_worker.signals(result), description="the thread to end")
    assert result.state == "REVOKED"
    shared_worker.get("noop")
    assert events.types(result) == ["task-started", "task-revoked"]


def test_1000_running_tasks_revoked_at_once(shared_worker):
    """1,000 running tasks are cancelled by one revoke and leave the pool empty."""
    results = [shared_worker.send("nap", 60, ignore_result=True) for _ in range(1000)]
    wait_until(
        lambda: shared_worker.inspect("stats")["pool"]["running"] == 1000,
        description="1,000 tasks to run at once",
        timeout_s=30,
    )
    shared_worker.app.control.revoke([result.id for result in results], terminate=True)
    wait_until(
        lambda: shared_worker.inspect("stats")["pool"]["running"] == 0, description="all to end", timeout_s=30
    )
    assert shared_worker.inspect("active") == []
    assert (
        shared_worker.journal(results[0])[-1] == shared_worker.journal(results[-1])[-1] == "cancelled revoked"
    )
