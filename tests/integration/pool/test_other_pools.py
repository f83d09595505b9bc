"""The same async tasks on Celery's own pools: on a background loop, with the abort those pools can give."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from support.waiting import wait_until

POOLS = ("prefork", "threads", "solo")


@pytest.fixture(scope="module")
def workers(new_worker):
    """A worker on each pool, all started at once."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(POOLS)) as threads:
        workers = {pool: stack.enter_context(contextlib.closing(new_worker(pool))) for pool in POOLS}
        list(threads.map(lambda pool: workers[pool].start("--pool", pool, "-c", "2"), POOLS))
        yield workers


@pytest.mark.parametrize("pool", POOLS)
def test_async_body_runs_on_the_background_loop(workers, pool):
    """Request and contextvars are the task's own in the body and its child tasks; results, retries work."""
    worker = workers[pool]
    result = worker.send("who", 0.05)
    request_id, _, traced, child_id, child_traced, thread = result.get()
    assert request_id == child_id == result.id
    assert traced == child_traced == f"trace-{result.id}"
    assert thread == "mainstem-loop"
    assert worker.get("flaky", 1) == 1
    assert worker.get("auto_flaky") == 2
    with pytest.raises(ValueError, match="as asked"):
        worker.get("fails", "value")
    with pytest.raises(Exception, match="nobody cancelled"):
        worker.get("fails", "stray")


def test_prefork_limits_and_terminate(workers):
    """On prefork the soft limit is raised in the body, and a terminated body gets to its cleanup."""
    worker = workers["prefork"]
    handled = worker.send("soft_handler", soft_time_limit=1)
    soft = worker.send("nap", 30, soft_time_limit=1)
    assert handled.get() == "handled soft_time_limit"
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get()
    assert worker.journal(soft) == ["started", "soft soft_time_limit"]
    revoked = worker.send("nap", 30, 0.2)
    worker.noted(revoked, "started")
    wait_until(lambda: worker.inspect("active"), description="the task to be active")
    revoked.revoke(terminate=True)
    assert worker.noted(revoked, "cleaned") == ["started", "cancelled revoked", "cleaned"]
    assert revoked.state == "REVOKED"
    assert worker.get("add", 1, 2) == 3
