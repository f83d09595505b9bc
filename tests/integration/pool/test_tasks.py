"""What Celery promises its tasks holds for async tasks on the pool. One shared worker, real broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery import chain

from support.waiting import NotInTimeError, wait_until


def test_body_runs_on_the_loop_with_its_request_and_context(shared_worker):
    """`self.request`, `current_task`, contextvars of `task_prerun` are the task's own, in child tasks too."""
    result = shared_worker.send("who")
    request_id, current_id, traced, child_id, child_traced, thread = result.get(timeout=60)
    assert request_id == current_id == child_id == result.id
    assert traced == child_traced == f"trace-{result.id}"
    assert thread == "mainstem-pool-loop"


def test_500_interleaved_tasks_keep_their_own_request(shared_worker):
    """500 tasks that run at once each see their own request, before and after they waited."""
    results = [shared_worker.send("who", 0.5) for _ in range(500)]
    for result in results:
        request_id, current_id, traced, child_id, child_traced, _ = result.get(timeout=30)
        assert request_id == current_id == child_id == result.id
        assert traced == child_traced == f"trace-{result.id}"


def test_plain_task_runs_in_a_thread(shared_worker):
    """A plain `def` task runs off the loop, with its own request."""
    result = shared_worker.send("plain")
    request_id, current_id, thread = result.get(timeout=60)
    assert request_id == current_id == result.id
    assert thread.startswith("mainstem-pool-task")


def test_blocking_plain_task_does_not_stall_the_loop(shared_worker):
    """While plain tasks block their threads, the loop keeps ticking."""
    shared_worker.get("longest_gap")
    for result in [shared_worker.send("plain", 0.5) for _ in range(4)]:
        result.get(timeout=60)
    assert shared_worker.get("longest_gap") < 0.3


def test_task_groups_and_timeouts_work_in_a_body(shared_worker):
    """`asyncio.TaskGroup` and `asyncio.timeout` find the right current task."""
    assert shared_worker.get("grouped") == "10 timeout"


def test_async_task_called_from_plain_task(shared_worker):
    """A plain body that calls an async task gets its result."""
    assert shared_worker.get("nested") == 3


def test_async_task_called_from_async_body(shared_worker):
    """A synchronous call of an async task suspends the calling body, not the loop."""
    assert shared_worker.get("nested_async") == 7


def test_signals_and_events_of_a_success(shared_worker, events):
    """A success sends prerun, success, postrun, and the events started, succeeded; each once, in order."""
    result = shared_worker.send("add", 2, 3)
    assert result.get(timeout=60) == 5
    assert events.wait_for(result, "task-succeeded")["result"] == "5"
    assert events.types(result) == ["task-started", "task-succeeded"]
    assert shared_worker.signals(result) == ["prerun", "success", "postrun"]


def test_failure(shared_worker, events):
    """A failing body fails its task: state, signals, events."""
    result = shared_worker.send("fails", "value")
    with pytest.raises(ValueError, match="as asked"):
        result.get(timeout=60)
    assert "as asked" in events.wait_for(result, "task-failed")["exception"]
    assert events.types(result) == ["task-started", "task-failed"]
    assert shared_worker.signals(result) == ["prerun", "failure", "postrun"]


@pytest.mark.parametrize(
    ("how", "name"), [("exit", "SwallowedExitError"), ("stray", "StrayCancelError"), ("reject", "Reject")]
)
def test_odd_ends_fail_the_task_only(shared_worker, how, name):
    """SystemExit, a CancelledError nobody caused and Reject fail their task; never as WorkerLostError."""
    result = shared_worker.send("fails", how)
    wait_until(lambda: result.state == "FAILURE", description="the task to fail")
    assert type(result.result).__name__ == name


def test_ignore(shared_worker, events):
    """Ignore ends a task without a result."""
    result = shared_worker.send("fails", "ignore")
    wait_until(lambda: "postrun" in shared_worker.signals(result), description="the task to end")
    assert result.state == "PENDING"
    assert events.types(result) in ([], ["task-started"])


def test_exit_in_a_loop_callback_does_not_end_the_pool(shared_worker):
    """SystemExit out of a bare loop callback reaches neither the worker nor other tasks."""
    assert shared_worker.get("fails", "childexit") is None
    assert shared_worker.get("add", 1, 1) == 2


def test_ignored_result_is_not_stored(shared_worker, events):
    """A task that ignores its result runs and is announced, and stores nothing."""
    result = shared_worker.send("noop", 1, ignore_result=True)
    events.wait_for(result, "task-succeeded")
    assert result.state == "PENDING"


def test_retry_with_countdown(shared_worker, events):
    """`self.retry(countdown=…)` runs the task again, later, with the same id."""
    result = shared_worker.send("flaky", 2)
    assert result.get(timeout=60) == 2
    events.wait_for(result, "task-succeeded")
    # Sorted: the next try may start on the loop before a thread has told the end of the one before.
    tries = ["prerun", "retry", "postrun"] * 2 + ["prerun", "success", "postrun"]
    assert sorted(shared_worker.signals(result)) == sorted(tries)
    assert events.types(result).count("task-retried") == 2


def test_autoretry(shared_worker):
    """`autoretry_for` catches what an async body raises."""
    assert shared_worker.get("auto_flaky") == 2


def test_retries_run_out(shared_worker):
    """After its last retry a task fails."""
    result = shared_worker.send("flaky", 99, 0.01)
    wait_until(lambda: result.state == "FAILURE", description="the retries to run out")
    assert type(result.result).__name__ == "MaxRetriesExceededError"


def test_eta(shared_worker):
    """A countdown delays the start."""
    result = shared_worker.send("noop", 1, countdown=0.7)
    with pytest.raises(NotInTimeError):
        result.get(timeout=0.4)
    assert result.get(timeout=60) == 1


def test_expired_task_does_not_run(shared_worker):
    """A task that expired before a worker looked at it is revoked, not run."""
    result = shared_worker.send("nap", 0, expires=datetime.now(UTC) - timedelta(seconds=1))
    wait_until(lambda: result.state == "REVOKED", description="the task to expire")
    assert shared_worker.journal(result) == []


def test_link_and_errback(shared_worker):
    """Callbacks get the result, errbacks the failed task's id."""
    linked = shared_worker.signature("errback", "linked").set(immutable=True)
    shared_worker.get("add", 1, 2, link=linked)
    shared_worker.noted("errback", "linked")
    failed = shared_worker.send("fails", "value", link_error=shared_worker.signature("errback"))
    shared_worker.noted("errback", failed.id)


def test_chain(shared_worker):
    """Chains hand results on."""
    workflow = chain(shared_worker.signature("add", 1, 2), shared_worker.signature("add", 10))
    assert shared_worker.sent(workflow.apply_async().id).get(timeout=60) == 13


def test_chord(shared_worker):
    """A chord's body runs once all its parts have."""
    body = shared_worker.sent(shared_worker.get("start_chord"))
    assert sorted(body.get(timeout=60)) == list(range(1, 21))


def test_publishing_from_a_body_leaves_the_loop(shared_worker):
    """`apply_async` in a body publishes, and the published task's parent is right."""
    result = shared_worker.send("publisher")
    child = result.get(timeout=60)
    wait_until(lambda: "success" in shared_worker.signals(child), description="the published task to run")
    ((known_id, _parent), _results) = result.meta["children"][0]
    assert known_id == child


def test_inspect(shared_worker):
    """`inspect` tells the running tasks with their worker pid, the slots and the callbacks' backlog."""
    result = shared_worker.send("nap", 30)
    shared_worker.noted(result, "started")
    active = wait_until(lambda: shared_worker.inspect("active"), description="the task to be active")
    assert [task["id"] for task in active] == [result.id]
    assert active[0]["worker_pid"] >= 1 << 32
    pool = shared_worker.inspect("stats")["pool"]
    assert pool["max-concurrency"] == 1000
    assert pool["running"] == 1
    assert pool["callbacks"]["waiting"] == 0
    result.revoke(terminate=True)
    shared_worker.noted(result, "cancelled revoked")


def test_process_init_is_sent_in_the_loop_thread(shared_worker):
    """`worker_process_init` fires in the thread that runs the tasks."""
    assert "mainstem-pool-loop" in shared_worker.journal_client.lrange("process-init", 0, -1)
