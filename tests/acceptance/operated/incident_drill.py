"""Stages five incidents on a whole stack under Prometheus with the shipped rules, and measures alert and diagnosis.

`make incidents` runs it (some seven minutes, so no part of the suite: `test_incidents.py` is the short form). For
each fault it waits until the alert fires, types what the runbook says, asserts that the cause is in the output,
and takes the pictures of docs/incidents.md, whose table it prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from redis import Redis

from support.clients.browsers import chromium
from support.fakes.identity_provider import SETTINGS, bearer, token
from support.paths import ROOT
from support.processes.processes import Child
from support.processes.servers import free_port
from support.processes.stacks import PROGRAM, StackProcess
from support.requiring import require
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(1200)
PICTURES = Path(os.environ.get("MAINSTEM_PICTURES") or "/tmp")
BUSY = "local x = 0 for i = 1, tonumber(ARGV[1]) do x = x + i end return x"
ENGINES = """
import asyncio
from mainstem_tasks import engine

@engine("waits")
async def waits(run):
    await run.text("on its way")
    await asyncio.sleep(run.input.get("seconds", 600))

@engine("stuck")
async def stuck(run):
    await run.text("asking the warehouse")
    await asyncio.get_running_loop().create_future()
"""


class Drill:
    """A stack of one worker with eight slots, a Prometheus with the shipped rules, and what was measured."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        (directory / "drill_engines.py").write_text(ENGINES)
        self.directory, self.metrics_port, self.port = directory, free_port(), free_port()
        self.env = {
            "MAINSTEM_ENGINES": "drill_engines",
            "PYTHONPATH": str(directory),
            "MAINSTEM_CONCURRENCY": "8",
            "MAINSTEM_METRICS_PORT": str(self.metrics_port),
            "MAINSTEM_OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1",  # nobody is there
            "MAINSTEM_OPENAI_MODEL": "model-1",
            "MAINSTEM_IDLE_TIMEOUT_S": "900",
            "MAINSTEM_TOKEN": token("root", scope="admin"),
            **{f"MAINSTEM_{name.upper()}": str(value) for name, value in SETTINGS.items()},
        }
        self.up = stack.enter_context(StackProcess(directory, **self.env))
        self.up.start().wait_ready()
        self.url: str = json.loads((self.up.data / "stack.json").read_text())["gateway"]
        self.http = stack.enter_context(
            httpx.Client(base_url=self.url, timeout=30, headers=bearer("root", scope="admin"))
        )
        self._prometheus(stack)
        self.rows: list[str] = []

    def _prometheus(self, stack: contextlib.ExitStack) -> None:
        """Start it with what deploy/prometheus has, but for the addresses."""
        tool = shutil.which("prometheus")
        require(tool, "prometheus, of Debian's package, is not here")
        shipped = ROOT / "deploy" / "prometheus"
        shutil.copy(shipped / "mainstem.rules.yml", self.directory)
        config = yaml.safe_load((shipped / "prometheus.yml").read_text())
        config["global"] = {"evaluation_interval": "5s"}
        authorization = {"credentials": self.env["MAINSTEM_TOKEN"]}
        targets = {
            "mainstem-gateway": self.url.removeprefix("http://"),
            "mainstem-worker": f"127.0.0.1:{self.metrics_port}",
        }
        for job in config["scrape_configs"]:
            job["authorization"] = authorization
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        (self.directory / "prometheus.yml").write_text(json.dumps(config))
        replace = "import os,sys; os.execv(sys.argv[1], sys.argv[1:])"
        options = (
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )
        child = Child("prometheus", "-c", replace, str(tool), *options, env={}, directory=self.directory)
        stack.enter_context(child)
        wait_until(lambda: len(self.query("up == 1")) == 2, description="two targets", timeout_s=60)

    def query(self, expression: str) -> list[Any]:
        with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
            where = f"http://127.0.0.1:{self.port}/api/v1/query"
            return httpx.get(where, params={"query": expression}, timeout=10).json()["data"]["result"]
        return []

    def fires(self, alert: str, since: float, *, limit_s: float = 420) -> float:
        """Wait until an alert fires, after its `for`; returns the seconds since the fault."""
        wait_until(
            lambda: self.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'),
            description=alert, timeout_s=limit_s,
        )  # fmt: skip
        return time.monotonic() - since

    def start(self, thread: str, engine: str, *, user: str = "ann", **run_input: Any) -> str:
        body = {"engine": engine, "input": run_input, "metadata": {"prompt": thread}}
        answered = self.http.post(f"/v1/threads/{thread}/runs", json=body, headers=bearer(user))
        return answered.raise_for_status().json()["run_id"]

    def types(self, *commands: str) -> list[str]:
        """Type commands in the stack's directory at 80 columns; return what each prints."""
        env = {**os.environ, **self.env, "COLUMNS": "80", "NO_COLOR": "1"}
        program = f"{sys.executable} {PROGRAM}"
        return [
            subprocess.run(
                ["bash", "-c", re.sub(r"^mainstem\b", program, command)], cwd=self.directory, env=env, timeout=120,
                capture_output=True, text=True, check=False,
            ).stdout
            for command in commands
        ]  # fmt: skip

    def found(self, fault: str, alert: str, seconds: float, steps: list[str], cause: str, said: str) -> None:
        assert len(steps) <= 3
        assert cause in said, said
        row = f"| {fault} | `{alert}` | {seconds:.0f} s | {' → '.join(f'`{one}`' for one in steps)} |"
        self.rows.append(row)
        sys.stdout.write(f"{row}\n{said[:1500]}\n\n")
        sys.stdout.flush()

    async def picture(self, name: str, path: str, tab: str | None = None) -> None:
        """Take a picture of the operator's page; the alert's reader is one or two clicks away from it."""
        async with chromium() as browser:
            page = await browser.new_page(viewport={"width": 1280, "height": 860})
            await page.goto(f"{self.url}/{path}#token={self.env['MAINSTEM_TOKEN']}")
            if tab is not None:
                await page.get_by_role("button", name=tab).click()
            await page.wait_for_timeout(3000)  # speeds are taken over seconds
            await page.screenshot(path=PICTURES / f"{name}.png")

    def pictures(self, name: str, path: str, tab: str | None = None) -> None:
        asyncio.run(self.picture(name, path, tab))

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.up.pid).children(recursive=True)
        return [one for one in children if "worker" in one.cmdline() and "--name" in one.cmdline()]


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Drill]:
    with contextlib.ExitStack() as stack:
        yield Drill(tmp_path, stack)


def test_incidents(drill: Drill) -> None:
    """One after the other; the stuck engine is silent while the others are staged."""
    chosen = os.environ.get("MAINSTEM_INCIDENTS", "worker provider store engine burst").split()
    if "worker" in chosen:
        lost_worker(drill)
    stuck_since, stuck = time.monotonic(), drill.start("stuck", "stuck")
    if "provider" in chosen:
        provider_down(drill)
    if "store" in chosen:
        slow_store(drill)
    if "engine" in chosen:
        stuck_engine(drill, stuck, stuck_since)
    if "burst" in chosen:
        burst(drill)
    sys.stdout.write("\n".join(drill.rows) + "\n")


def lost_worker(drill: Drill) -> None:
    run_id = drill.start("lost", "waits")
    wait_until(lambda: drill.http.get(f"/v1/runs/{run_id}").json()["text"], description="the run to begin")
    (worker,) = drill.workers()
    since = time.monotonic()
    worker.send_signal(signal.SIGKILL)
    seconds = drill.fires("MainstemWorkerLost", since)
    steps = ["mainstem runs --failed --user '*'", f"mainstem show {run_id}"]
    listed, shown = drill.types(*steps)
    assert run_id in listed
    drill.found(
        "a worker is killed",
        "MainstemWorkerLost",
        seconds,
        [steps[0], "mainstem show RUN"],
        "worker_lost",
        shown,
    )
    drill.pictures("incident-worker", f"runs/{run_id}")
    wait_until(
        lambda: len(drill.workers()) == 1 and drill.query('up{job="mainstem-worker"} == 1'),
        description="the next worker",
        timeout_s=60,
    )


def provider_down(drill: Drill) -> None:
    since = time.monotonic()
    for number in range(6):
        run_id = drill.start(f"provider-{number}", "openai", messages=[{"role": "user", "content": "hi"}])
    seconds = drill.fires("MainstemProviderFailing", since)
    steps = ["mainstem runs --failed --user '*'", f"mainstem show {run_id}"]
    listed, shown = drill.types(*steps)
    assert run_id in listed
    drill.found(
        "a provider is down",
        "MainstemProviderFailing",
        seconds,
        [steps[0], "mainstem show RUN"],
        "provider_error",
        shown,
    )
    drill.pictures("incident-provider", "runs", "Failed")


def slow_store(drill: Drill) -> None:
    """A neighbour on the same server sends a script that keeps it for most of each second."""
    password = re.search(r"requirepass (\S+)", (drill.up.data / "server.conf").read_text())
    assert password is not None
    port = int((drill.up.data / "server.port").read_text())
    client = Redis(port=port, password=password[1], db=9)
    loops, stop = 2_000_000, threading.Event()
    begun = time.monotonic()
    client.eval(BUSY, 0, str(loops))
    loops = int(loops * 0.6 / (time.monotonic() - begun))

    def keep_busy() -> None:
        while not stop.is_set():
            client.eval(BUSY, 0, str(loops))
            stop.wait(0.05)

    since = time.monotonic()
    thread = threading.Thread(target=keep_busy)
    thread.start()
    try:
        seconds = drill.fires("MainstemStoreSlow", since)
        (said,) = drill.types("mainstem doctor")
    finally:
        stop.set()
        thread.join()
        client.close()
    drill.found("the store is slow", "MainstemStoreSlow", seconds, ["mainstem doctor"], "slow commands", said)


def stuck_engine(drill: Drill, run_id: str, since: float) -> None:
    seconds = drill.fires("MainstemEngineSilent", since)
    steps = ["grep engine_silent stack.log", f"mainstem show {run_id}"]
    logged, shown = drill.types(*steps)
    assert run_id in logged
    drill.found(
        "an engine is stuck",
        "MainstemEngineSilent",
        seconds,
        ["grep engine_silent LOG", "mainstem show RUN"],
        "asking the warehouse",
        shown,
    )
    drill.pictures("incident-stuck", f"runs/{run_id}")
    drill.http.post(f"/v1/runs/{run_id}/abort")


def burst(drill: Drill) -> None:
    since = time.monotonic()
    for number in range(120):
        drill.start(f"burst-{number}", "waits", user="bob", seconds=40)
    drill.start("another", "waits", seconds=1)
    seconds = drill.fires("MainstemQueueOld", since)
    (said,) = drill.types("mainstem top --once --user '*'")
    drill.found("one user's burst", "MainstemQueueOld", seconds, ["mainstem top --user '*'"], "bob ", said)
    drill.pictures("incident-burst", "runs", "Queued")
