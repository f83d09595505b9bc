"""Staged incidents under a real Prometheus: how long after the fault an alert's expression is true."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mainstem_api import Runs
from mainstem_shared.settings import Settings
from support.paths import ROOT
from support.processes import processes, topologies
from support.processes.processes import Child
from support.processes.servers import Controlled, ValkeyProcess, free_port
from support.requiring import require
from support.waiting import wait_until

RULES = yaml.safe_load((ROOT / "deploy" / "prometheus" / "mainstem.rules.yml").read_text())["groups"][0][
    "rules"
]
EXPRESSIONS = {rule["alert"]: rule["expr"] for rule in RULES}
ENGINE = """
import asyncio, time
from mainstem_tasks import engine

@engine("blocks")
async def blocks(run):
    time.sleep(6)

@engine("waits")
async def waits(run):
    await run.text("on its way")
    await asyncio.sleep(60)
"""


class Site:
    """A store, a worker to lose, one to keep, and a Prometheus that scrapes both every half second."""

    def __init__(self, server: ValkeyProcess, directory: Path, stack: contextlib.ExitStack) -> None:
        (directory / "incident_engines.py").write_text(ENGINE)
        self.stack, self.directory, self.server = stack, directory, server
        self.env = {
            "MAINSTEM_REDIS_URL": server.url(0),
            "MAINSTEM_BROKER_URL": server.url(1),
            "MAINSTEM_SWEEP_S": "0.5",
            "MAINSTEM_LEASE_S": "3",
            "MAINSTEM_ENGINES": "incident_engines",
            "MAINSTEM_OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1",  # nobody is there
            "MAINSTEM_OPENAI_MODEL": "m",
            "PYTHONPATH": str(directory),
        }
        ports = {name: free_port() for name in ("lost", "kept")}
        self.workers = {name: self._worker(name, port) for name, port in ports.items()}
        self.port = free_port()
        self._prometheus(list(ports.values()))
        self.runs = stack.enter_context(Runs(Settings(redis_url=server.url(0), broker_url=server.url(1))))

    def _worker(self, name: str, port: int) -> Child:
        queue = {"lost": "losing", "kept": "celery"}[name]
        env = {**self.env, "MAINSTEM_METRICS_PORT": str(port), "MAINSTEM_QUEUE": queue}
        child = self.stack.enter_context(processes.worker(env, self.directory, name))
        wait_until(lambda: "metrics are served" in child.log, description=name, timeout_s=40)
        return child

    def _prometheus(self, ports: list[int]) -> None:
        tool = shutil.which("prometheus")
        require(tool, "prometheus, of Debian's package, is not here")
        targets = [f"127.0.0.1:{port}" for port in ports]
        job = {"job_name": "mainstem-worker", "scrape_interval": "500ms", "scrape_timeout": "500ms"}
        config = {"scrape_configs": [{**job, "static_configs": [{"targets": targets}]}]}
        path = self.directory / "prometheus.yml"
        path.write_text(json.dumps(config))
        program = (
            "import os,sys; os.execv(sys.argv[1], sys.argv[1:])",
            str(tool),
            f"--config.file={path}",
            f"--storage.tsdb.path={self.directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )
        child: Controlled = Child("prometheus", "-c", *program, env={}, directory=self.directory)
        self.stack.enter_context(child)
        wait_until(lambda: len(self.query("up == 1")) == 2, description="two targets", timeout_s=30)

    def query(self, expression: str) -> list[Any]:
        """Return what an expression finds; nothing as long as Prometheus listens but is not ready (503, as text)."""
        try:
            url = f"http://127.0.0.1:{self.port}/api/v1/query"
            response = httpx.get(url, params={"query": expression}, timeout=5)
        except httpx.TransportError:
            return []
        if response.status_code == 503:
            return []
        return response.raise_for_status().json()["data"]["result"]

    def alerts_within(self, alert: str, limit_s: float) -> None:
        """Wait until an alert's expression is true; prints after how many seconds."""
        began = time.monotonic()
        wait_until(lambda: self.query(EXPRESSIONS[alert]), description=alert, timeout_s=limit_s)
        sys.stdout.write(f"{alert}: true after {time.monotonic() - began:.1f} s\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("incidents")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(topologies.store(directory / "valkey"))
        yield Site(server, directory, stack)


def test_faults_raise_their_alerts(site: Site):
    """A provider that is away, code that blocks a loop, a worker that dies, a store that stands: each is seen soon."""
    quiet = ("MainstemLoopBlocked", "MainstemWorkerLost", "MainstemStoreDown", "MainstemProviderFailing")
    assert [alert for alert in quiet if site.query(EXPRESSIONS[alert])] == []

    for number in range(2):
        run_input = {"messages": [{"role": "user", "content": "hi"}]}
        site.runs.start(f"provider-{number}", engine="openai", user_id="ann", input=run_input)
    site.alerts_within("MainstemProviderFailing", 60)

    site.runs.start("blocked", engine="blocks", user_id="ann", input={})
    site.alerts_within("MainstemLoopBlocked", 20)

    losing = Settings(redis_url=site.server.url(0), broker_url=site.server.url(1), queue="losing")
    with Runs(losing) as runs:
        run = runs.start("lost", engine="waits", user_id="ann", input={})
        wait_until(lambda: runs.get(run.run_id).text, description="the run to begin", timeout_s=30)
        site.workers["lost"].sigkill()
        site.alerts_within("MainstemWorkerLost", 40)
        assert runs.get(run.run_id).reason == "worker_lost"

    site.server.freeze()
    try:
        site.alerts_within("MainstemStoreDown", 40)
    finally:
        site.server.thaw()
