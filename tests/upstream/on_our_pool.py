"""A pytest plugin for Celery's own tests: its integration tests on a worker with our pool, its unit tests inside one.

`run.py` beside this file fetches the tests and starts pytest with `-p on_our_pool`. UPSTREAM_JOBS=1 makes every test
function a job of a pool: on its event loop, in the greenlet in which Celery's tracer runs for runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

POOL = os.environ.get("UPSTREAM_POOL", "mainstem_workers.pool:TaskPool")
AS_JOBS = os.environ.get("UPSTREAM_JOBS") == "1"


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Any:
    """Answer for the fixture that says which pool the session's worker has."""
    if fixturedef.argname != "celery_worker_pool":
        return None
    fixturedef.cached_result = (POOL, fixturedef.cache_key(request), None)
    return POOL


class JobPool:
    """A pool without a worker, whose jobs are test functions."""

    def __init__(self) -> None:
        from mainstem_workers.pool import TaskPool

        self._pool = TaskPool(limit=1)
        self._pool.start()

    def call(self, function: Any) -> None:
        """Run a function as a job: on the loop's thread, in the job's greenlet. What it raises is raised here."""
        import threading

        from mainstem_workers.pool import _celery
        from mainstem_workers.pool.jobs import AsyncJob

        raised: list[BaseException] = []
        done = threading.Event()

        def target(*_: Any, **__: Any) -> tuple[int, Any, float]:
            try:
                function()
            except BaseException as error:
                raised.append(error)
            finally:
                done.set()
            return 0, None, 0.0

        job = AsyncJob(_celery.call_from(None, target, (), {}, {}), self._pool)
        self._pool.loop.call_soon_threadsafe(self._pool._slots.admit, job)
        done.wait()
        if raised:
            raise raised[0]

    def stop(self) -> None:
        self._pool.stop()


@pytest.fixture(scope="session", autouse=AS_JOBS)
def _job_pool(request: pytest.FixtureRequest) -> Iterator[JobPool]:
    pool = JobPool()
    request.config._mainstem_jobs = pool  # type: ignore[attr-defined]
    yield pool
    pool.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    pool = getattr(pyfuncitem.config, "_mainstem_jobs", None)
    if pool is None:
        return None
    needed = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in needed}
    pool.call(lambda: pyfuncitem.obj(**arguments))
    return True
