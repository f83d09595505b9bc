"""The same async tasks on Celery's own pools: on a background loop, with the abort those pools can give."""

from __future__ import annotations

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from waiting import wait_until


@pytest.fixture(params=["prefork", "threads", "solo"])
def other_worker(request, make_worker):
    return make_worker("--pool", request.param, "-c", "2")


def test_async_body_runs_on_the_background_loop(other_worker):
    """Request and contextvars are the task's own in the body and its child tasks; results, retries work."""
    result = other_worker.send("who", 0.05)
    request_id, _, traced, child_id, child_traced, thread = result.get()
    assert request_id == child_id == result.id
    assert traced == child_traced == f"trace-{result.id}"
    assert thread == "mainstem-loop"
    assert other_worker.get("flaky", 1) == 1
    assert other_worker.get("auto_flaky") == 2
    with pytest.raises(ValueError, match="as asked"):
        other_worker.get("fails", "value")
    with pytest.raises(Exception, match="nobody cancelled"):
        other_worker.get("fails", "stray")


def test_prefork_limits_and_terminate(make_worker):
    """On prefork the soft limit is raised in the body, and a terminated body gets to its cleanup."""
    worker = make_worker("--pool", "prefork", "-c", "2")
    assert worker.get("soft_handler", soft_time_limit=1) == "handled soft_time_limit"
    soft = worker.send("nap", 30, soft_time_limit=1)
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
