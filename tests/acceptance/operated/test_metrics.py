"""What real processes export: exactly the declared metrics, with figures that follow runs, and nothing of users."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mainstem_api import Runs
from mainstem_shared.metrics.catalogue import GATEWAY, METRICS, WORKER, exported_by
from mainstem_shared.settings import Settings
from support.paths import TESTS
from support.processes import processes, topologies
from support.processes.processes import Child
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until

SECRET = "zebra"  # stands in every name, text and metadata of the user's below


def ended(runs: Runs, run_id: str) -> None:
    wait_until(lambda: runs.get(run_id).status.is_terminal, description="the run to end", timeout_s=30)


class Fleet:
    """A gateway and a worker, as processes, and what they export."""

    def __init__(self, server: ValkeyProcess, directory: Path, stack: ExitStack) -> None:
        self.env = {
            "MAINSTEM_REDIS_URL": server.url(0),
            "MAINSTEM_BROKER_URL": server.url(1),
            "MAINSTEM_SWEEP_S": "0.3",
            "MAINSTEM_ENGINES": "support.engines.engines",
            "MAINSTEM_METRICS_PORT": "0",
            "PYTHONPATH": str(TESTS),
        }
        self.server = server
        self._directory, self._stack = directory, stack
        self._ports: dict[str, int] = {}
        self.runs = stack.enter_context(Runs(Settings(redis_url=server.url(0), broker_url=server.url(1))))

    def worker(self, name: str, *options: str, **env: str) -> Child:
        child = processes.worker({**self.env, **env}, self._directory, name, *options)
        self._stack.enter_context(child)
        served = re.compile(r"metrics are served.*\bport=(\d+)")
        wait_until(lambda: served.search(child.log), description=f"{name} to serve metrics", timeout_s=30)
        found = served.search(child.log)
        assert found
        self._ports[name] = int(found[1])
        return child

    def gateway(self, name: str) -> Child:
        port = self._ports[name] = free_port()
        child = self._stack.enter_context(processes.gateway(self.env, self._directory, port, name))
        wait_until(lambda: self._answers(port), description=f"{name} to answer", timeout_s=30)
        return child

    @staticmethod
    def _answers(port: int) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def text(self, name: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self._ports[name]}/metrics").raise_for_status().text

    def value(self, name: str, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; -1 if there is none."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.text(name))
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else -1

    def run(self, engine: str, **fields: Any) -> Any:
        run = self.runs.start(
            fields.pop("thread_id", f"{SECRET}-{time.monotonic_ns()}"),
            engine=engine,
            user_id=SECRET,
            metadata={SECRET: SECRET},
            **fields,
        )
        ended(self.runs, run.run_id)
        return run


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("metrics")
    with ExitStack() as stack:
        server = stack.enter_context(topologies.store(directory / "valkey"))
        fleet = Fleet(server, directory, stack)
        fleet.worker("worker")
        fleet.gateway("gateway")
        yield fleet


def names_in(text: str) -> set[tuple[str, str]]:
    return {(found[1], found[2]) for found in re.finditer(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("process", [WORKER, GATEWAY])
def test_processes_export_what_is_declared(fleet: Fleet, process: str):
    """A real worker and a real gateway export every metric declared for them, with its type, and no other."""
    declared = {(row.exposed_name, row.kind) for row in exported_by(process).values()}
    assert names_in(fleet.text(process)) == declared


def test_labels_are_those_declared(fleet: Fleet):
    """No sample has a label that the table does not name."""
    fleet.run("demo", input={})
    for process in (WORKER, GATEWAY):
        for family in text_string_to_metric_families(fleet.text(process)):
            for sample in family.samples:
                assert set(sample.labels) - {"le"} <= set(METRICS[family.name].labels), sample


def test_figures_follow_runs(fleet: Fleet):
    """A run is counted where it begins and ends, by engine, result and reason, with its times."""
    before = fleet.value(WORKER, "mainstem_runs_ended_total", engine="demo", reason="completed")
    fleet.run("demo", input={})
    fleet.run("demo", input={})

    def counted() -> bool:
        ended = fleet.value(WORKER, "mainstem_runs_ended_total", engine="demo", reason="completed")
        return ended == max(before, 0) + 2

    wait_until(counted, description="two runs to be counted")
    for name in ("queue_wait", "first_token", "duration"):
        metric = f"mainstem_run_{name}_seconds_count"
        assert fleet.value(WORKER, metric, engine="demo") == max(before, 0) + 2, metric
    assert fleet.value(WORKER, "mainstem_segments_ended_total", engine="demo", outcome="ended") >= 2
    assert fleet.value(WORKER, "mainstem_lease_beats_total", result="ok") >= 1
    assert fleet.value(WORKER, "mainstem_processes", role="worker", pool="asyncio") == 1
    assert fleet.value(GATEWAY, "mainstem_processes", role="gateway") == 1


def test_nothing_of_a_user_is_in_a_label(fleet: Fleet):
    """Whatever a user names, asks for or writes: no metric has it, and it makes no series."""
    fleet.run("demo", input={"text": SECRET})
    port = fleet._ports[GATEWAY]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        for word in (SECRET, f"{SECRET}2"):
            body = {"engine": word, "input": {word: word}, "metadata": {word: word}}
            http.post(f"/v1/threads/{word}/runs", json=body, headers={"Idempotency-Key": word})
            http.get(f"/v1/runs/{word}")
            http.request(word.upper(), f"/{word}")
    for process in (WORKER, GATEWAY):
        assert SECRET not in fleet.text(process).lower()


def test_the_census_counts_the_whole_store(fleet: Fleet):
    """Running and queued runs, and since when the oldest waits, are the same in every process."""
    with Runs(
        Settings(redis_url=fleet.server.url(0), broker_url=fleet.server.url(1), queue="nobody's")
    ) as away:
        started = away.start("alone", engine="demo", user_id="ann", input={})
        for process in (WORKER, GATEWAY):
            wait_until(
                lambda p=process: (
                    fleet.value(p, "mainstem_runs", state="queued") == 1
                    and fleet.value(p, "mainstem_queue_oldest_seconds") > 0.5
                ),
                description=f"{process} to tell of the queued run",
            )
        away.abort(started.run_id)
    for process in (WORKER, GATEWAY):
        wait_until(
            lambda p=process: fleet.value(p, "mainstem_queue_oldest_seconds") == 0,
            description="an empty queue",
        )


def test_children_of_prefork_are_served_together(fleet: Fleet):
    """With prefork one port has the figures of all children, also of those that are gone."""
    child = fleet.worker("prefork", "--pool", "prefork", "--concurrency", "2", MAINSTEM_QUEUE="forked")
    settings = Settings(redis_url=fleet.server.url(0), broker_url=fleet.server.url(1), queue="forked")
    with Runs(settings) as runs:
        for number in range(4):
            run = runs.start(f"forked-{number}", engine="demo", user_id="ann", input={})
            ended(runs, run.run_id)
    wait_until(
        lambda: fleet.value("prefork", "mainstem_runs_ended_total", engine="demo") == 4,
        description="four runs of two children",
    )
    assert fleet.value("prefork", "mainstem_worker_slots") == 2
    assert names_in(fleet.text("prefork")) == {
        (row.exposed_name, row.kind) for row in exported_by(WORKER).values()
    }
    assert child.running
