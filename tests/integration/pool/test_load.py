"""Slots, backpressure, a broker that stands still, memory."""

from __future__ import annotations

import time

import pytest

from support.together import Together
from support.waiting import wait_until

together = Together()


@pytest.fixture(scope="module")
def at_once(request, make_workers):
    with together.run(request, make_workers) as running:
        yield running


def test_1000_sleeping_tasks_at_once(shared_worker):
    """1,000 slots hold 1,000 tasks at once: together they take little longer than one."""
    began = time.monotonic()
    results = [shared_worker.send("noop_after", 3.0) for _ in range(1000)]
    assert [result.get(timeout=60) for result in results] == ["slept"] * 1000
    assert time.monotonic() - began < 60


@together
def test_no_more_than_the_slots_are_fetched(make_worker):
    """With prefetch disabled the worker takes as many messages as it has slots, the rest stays for others."""
    worker = make_worker("-c", "3")
    results = [worker.send("nap", 60) for _ in range(8)]
    wait_until(lambda: worker.inspect("stats")["pool"]["running"] == 3, description="three to run")
    assert worker.inspect("stats")["pool"]["waiting"] == 0
    assert worker.queue_length() == 5
    worker.app.control.revoke([result.id for result in results if worker.journal(result)], terminate=True)
    wait_until(lambda: worker.queue_length() == 2, description="freed slots to be used")
    wait_until(lambda: worker.inspect("stats")["pool"]["running"] == 3, description="three others to run")
    assert worker.queue_length() == 2


@together
def test_grow_and_shrink(make_worker):
    """Growing starts what waits; shrinking takes effect as tasks end, and never below one."""
    worker = make_worker("-c", "1")
    for _ in range(4):
        worker.send("nap", 60)
    control = worker.app.control
    assert control.pool_grow(2, destination=[worker.name], reply=True) == [
        {worker.name: {"ok": "pool will grow"}}
    ]
    wait_until(lambda: worker.inspect("stats")["pool"]["running"] == 3, description="three to run")
    control.pool_shrink(1, destination=[worker.name], reply=True)
    pool = worker.inspect("stats")["pool"]
    assert (pool["max-concurrency"], pool["running"]) == (2, 3)
    refused = control.pool_shrink(5, destination=[worker.name], reply=True)
    assert "below one slot" in str(refused)
    assert worker.inspect("stats")["pool"]["max-concurrency"] == 2


@together
def test_revoked_while_waiting_for_a_slot(make_worker):
    """A task that waits for a slot in the pool is dropped by a revoke, with and without terminate."""
    worker = make_worker("-c", "1", "-E")
    running, (first, second, third) = worker.fill_up(3)
    first.revoke(terminate=True)
    second.revoke()
    wait_until(lambda: first.state == "REVOKED", description="the terminated one to be announced")
    running.revoke(terminate=True)
    assert third.get(timeout=10) == "rested"
    assert worker.journal(first) == worker.journal(second) == []
    assert second.state == "REVOKED"
    assert worker.signals(first) == ["revoked terminated=True"]
    assert worker.signals(second) == ["revoked terminated=False"]


def test_frozen_broker_does_not_delay_the_loop(make_worker, private_valkey):
    """While broker and backend stand still for 6 s, with events on and tasks ending, the loop goes on."""
    worker = make_worker("-c", "300", "-E", broker=private_valkey)
    naps = [worker.send("nap", 0.5 + number / 50) for number in range(200)]
    late = [worker.send("late_nap", 0.5 + number / 20) for number in range(50)]
    for result in (naps[-1], late[-1]):
        worker.noted(result, "started")
    worker.get("longest_gap")
    private_valkey.freeze()
    time.sleep(6)  # the length of the outage is what is tested
    private_valkey.thaw()
    assert worker.get("longest_gap") < 0.5
    assert {result.get(timeout=60) for result in naps + late} == {"rested"}
    assert wait_until(
        lambda: worker.inspect("stats")["pool"]["callbacks"]["waiting"] == 0,
        description="callbacks to catch up",
    )
    assert len([result for result in naps + late if worker.journal(result) != ["started"]]) == 0


def test_memory_stays_flat(shared_worker):
    """3,000 further tasks do not make the process grow."""

    def run(count: int) -> int:
        results = [shared_worker.send("ignored") for _ in range(count)]
        wait_until(
            lambda: "postrun" in shared_worker.signals(results[-1]),
            description="the tasks to end",
            timeout_s=60,
        )
        return shared_worker.get("memory")

    before = run(1000)  # caches and thread stacks are filled
    assert run(3000) - before < 4_000_000
