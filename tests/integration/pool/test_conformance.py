"""Celery's hooks on every pool, against the table in `docs/pools.md`: what it says is what happens."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from support.paths import ROOT
from support.waiting import wait_until

patiently = functools.partial(wait_until, timeout_s=40)
PAGE = ROOT / "docs" / "pools.md"
BEGIN, END = "<!-- conformance -->\n", "<!-- end -->"
POOLS = {"asyncio": "custom", "threads": "threads", "prefork": "prefork", "solo": "solo"}
YES, NO = "yes", "no"


def signals_of(worker: Any, task: Any, last: str = "postrun") -> list[str]:
    patiently(lambda: last in worker.signals(task), description=f"the signals of {task}")
    return worker.signals(task)


def success(worker: Any) -> str:
    task = worker.send("add", 1, 2)
    assert task.get() == 3
    return YES if signals_of(worker, task) == ["prerun", "success", "postrun"] else NO


def failure(worker: Any) -> str:
    task = worker.send("fails", "value")
    with pytest.raises(ValueError, match="as asked"):
        task.get()
    return YES if signals_of(worker, task) == ["prerun", "failure", "postrun"] else NO


def request(worker: Any) -> str:
    task = worker.send("who", 0.01)
    outer, _, traced, child, child_traced, _ = task.get()
    assert outer == child == task.id
    return YES if traced == child_traced == f"trace-{task.id}" else NO


def retry(worker: Any) -> str:
    task = worker.send("flaky", 1)
    assert task.get() == 1
    return YES if "retry" in worker.signals(task) else NO


def eta(worker: Any) -> str:
    begun = time.monotonic()
    worker.get("noop", 1, countdown=0.5)
    return YES if time.monotonic() - begun >= 0.5 else NO


def chain(worker: Any) -> str:
    last = (worker.signature("add", 1, 1) | worker.signature("add", 2)).apply_async()
    return YES if worker.sent(last.id).get() == 4 else NO


def link(worker: Any) -> str:
    linked = worker.signature("noop", queue=worker.app.conf.task_default_queue).set(
        task_id=f"l{time.time_ns()}"
    )
    worker.send("add", 1, 2, link=linked)
    return YES if worker.sent(linked.options["task_id"]).get() == 3 else NO


def errback(worker: Any) -> str:
    task = worker.send("fails", "value", link_error=worker.signature("errback"))
    worker.noted("errback", task.id)
    return YES


def ignore_result(worker: Any) -> str:
    task = worker.send("ignored")
    signals_of(worker, task)
    return YES if task.state == "PENDING" else NO


def soft_limit(worker: Any) -> str:
    task = worker.send("nap", 1.5, soft_time_limit=0.3)
    try:
        task.get()
    except SoftTimeLimitExceeded:
        assert "soft soft_time_limit" in worker.journal(task)
        return YES
    return "ignored"


def processes(worker: Any) -> list[int] | None:
    return worker.inspect("stats")["pool"].get("processes")


def ended(worker: Any, before: list[int] | None) -> str:
    """What the end of a task did to its process, if the pool has one for each."""
    if before is None:
        return YES
    patiently(lambda: not set(before) <= set(processes(worker) or []), description="the process to end")
    return "yes, its process ends"


def hard_limit(worker: Any) -> str:
    before = processes(worker)
    task = worker.send("nap", 1.5, time_limit=0.5)
    try:
        task.get()
    except TimeLimitExceeded:
        return ended(worker, before)
    return "ignored"


def revoke_waiting(worker: Any) -> str:
    task = worker.send("nap", 0, countdown=0.5)
    patiently(lambda: worker.inspect("scheduled"), description="the task to be received")
    task.revoke()
    patiently(lambda: task.state == "REVOKED", description="the task to be revoked")
    return YES if not worker.journal(task) else NO


def terminate(worker: Any) -> str:
    before = processes(worker)
    task = worker.send("nap", 1.5)
    worker.noted(task, "started")
    task.revoke(terminate=True)
    patiently(lambda: task.state in {"SUCCESS", "REVOKED"}, description="the task to end")
    if task.state == "SUCCESS":
        return "runs on"
    worker.noted(task, "cancelled revoked")
    return ended(worker, before)


def inspect(worker: Any) -> str:
    task = worker.send("nap", 3)
    worker.noted(task, "started")
    try:
        active = worker.app.control.inspect([worker.name], timeout=2, limit=1).active()
        return (
            YES if active and [found["id"] for found in active[worker.name]] == [task.id] else "not meanwhile"
        )
    finally:
        task.get()


def resize(worker: Any) -> str:
    def size() -> int:
        pool = worker.inspect("stats")["pool"]
        return len(pool.get("processes") or []) or pool["max-concurrency"]

    before = size()
    [answer] = worker.app.control.pool_grow(1, [worker.name], reply=True, timeout=5)
    if "error" in next(iter(answer.values())):
        return "refused"
    patiently(lambda: size() == before + 1, description="the pool to grow")
    worker.app.control.pool_shrink(1, [worker.name], reply=True, timeout=5)
    patiently(lambda: size() == before, description="the pool to shrink")
    return YES


def rate_limit(worker: Any) -> str:
    worker.app.control.rate_limit("poolapp.noop", "2/s", [worker.name], reply=True, timeout=5)
    begun = time.monotonic()
    for task in [worker.send("noop", number) for number in range(4)]:
        task.get()
    worker.app.control.rate_limit("poolapp.noop", "0", [worker.name], reply=True, timeout=5)
    return YES if time.monotonic() - begun >= 1 else NO


HOOKS: dict[str, Callable[[Any], str]] = {
    "`task_prerun`, `task_success`, `task_postrun`": success,
    "`task_failure`": failure,
    "`task_retry`, retry with countdown": retry,
    "`self.request` and contextvars of `task_prerun`, in child tasks too": request,
    "ETA and countdown": eta,
    "link": link,
    "errback": errback,
    "chain": chain,
    "`ignore_result`": ignore_result,
    "rate limit": rate_limit,
    "soft time limit": soft_limit,
    "hard time limit": hard_limit,
    "revoke before the start": revoke_waiting,
    "revoke with terminate while running": terminate,
    "`inspect` while a task runs": inspect,
    "`pool_grow`, `pool_shrink`": resize,
}


def written() -> dict[str, dict[str, str]]:
    """Read the page's table: pool by hook."""
    _, _, rest = PAGE.read_text().partition(BEGIN)
    lines = [line.strip("|").split("|") for line in rest.partition(END)[0].splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines]
    if not rows:
        return {}
    head, _, *body = rows
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}


def write(table: dict[str, dict[str, str]]) -> None:
    lines = [f"| | {' | '.join(POOLS)} |", "|---" * (len(POOLS) + 1) + "|"]
    lines += [
        f"| {hook} | {' | '.join(row.get(pool, '') for pool in POOLS)} |" for hook, row in table.items()
    ]
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


TOGETHER = 8
"""Slots of a worker on which hooks are checked side by side."""
ALONE = (inspect, resize)
"""These look at the whole worker."""
IN_ORDER = (hard_limit, terminate)
"""Each of these looks whether a process ends: one after the other, so that it is its own doing."""


def find(worker: Any, *, together: bool) -> dict[Callable[[Any], str], str]:
    """Check every hook on a worker."""

    def in_order(*checks: Callable[[Any], str]) -> dict[Callable[[Any], str], str]:
        return {check: check(worker) for check in checks}

    if not together:
        return in_order(*HOOKS.values())
    others = [check for check in HOOKS.values() if check not in {*ALONE, *IN_ORDER}]
    with ThreadPoolExecutor(len(others) + 1) as threads:
        parts = [threads.submit(in_order, *IN_ORDER), *(threads.submit(in_order, check) for check in others)]
        found = {check: result for part in parts for check, result in part.result().items()}
    return {**found, **in_order(*ALONE)}


@pytest.fixture(scope="module")
def findings(new_worker) -> Iterator[dict[str, Future[Any]]]:
    """What is found on each pool. All are looked at at once: the time is that of the waiting."""

    def look(pool: str) -> dict[Callable[[Any], str], str]:
        with contextlib.closing(new_worker(f"conform-{pool}")) as worker:
            worker.start("--pool", POOLS[pool], "-c", "1" if pool == "solo" else str(TOGETHER))
            return find(worker, together=pool != "solo")

    with ThreadPoolExecutor(len(POOLS)) as threads:
        yield {pool: threads.submit(look, pool) for pool in POOLS}


@pytest.mark.parametrize("pool", POOLS)
def test_hooks_are_as_documented(findings, pool):
    """Every hook does on this pool what the table says."""
    results = findings[pool].result()
    found = {hook: results[check] for hook, check in HOOKS.items()}
    table = written()
    if os.environ.get("MAINSTEM_WRITE_TABLE"):
        write({hook: {**table.get(hook, {}), pool: result} for hook, result in found.items()})
    else:
        assert found == {hook: row[pool] for hook, row in table.items()}
