"""A store of three servers, static shards or a Cluster: all that runs can do, on a real worker and a real gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mainstem_shared.store import keys
from support.clients.approvals import decision, paused
from support.clients.clients import client, finished
from support.clients.commands import MAIN
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes import fleets
from support.processes.gateways import GatewayThread, open_stream
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

RUNS = 12


@pytest.fixture(scope="module", params=["shards", "cluster"])
def stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    valkey_server: ValkeyProcess,
    live_system: Any,
) -> Iterator[Any]:
    """A live system with one worker, whose store are three servers."""
    directory = tmp_path_factory.mktemp("fleet")
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(getattr(fleets, request.param)(directory))
        system = live_system(fleet, valkey_server, directory)
        with system.stack:
            system.worker(
                "stage",
                MAINSTEM_ENGINES="support.engines.engines",
                PYTHONPATH=str(TESTS),
                MAINSTEM_SWEEP_S="1",
            )
            yield system


async def test_runs_stream_to_their_readers_exactly(stage: Any, gateway: GatewayThread) -> None:
    """Every reader has every event once, in order, to the end; the runs are spread over all servers."""
    async with client(stage) as runs, gateway.client() as http:

        async def one(number: int) -> str:
            started = await runs.start(f"t{number}", "demo", {"tokens": 60, "interval_ms": 5})
            async with open_stream(http, started.run_id) as stream:
                seen = [event async for event in stream]
            assert stream.ended == "clean"
            cursors = [event.cursor for event in seen]
            assert cursors == sorted(set(cursors))
            assert seen[-1].type == "run.finished"
            run = await runs.get(started.run_id)
            assert (run.status, run.text) == ("succeeded", demo_text(60))
            return started.run_id

        run_ids = await asyncio.gather(*map(one, range(RUNS)))
        listed = (await http.get("/v1/runs", params={"limit": 100})).json()
        assert set(run_ids) <= {run["run_id"] for run in listed["runs"]}
    held = 0
    for server in stage.store.primaries:
        with server.client() as store:
            held += bool(store.keys("ms:*:record"))
    assert held == 3


async def test_an_abort_reaches_its_owner(stage: Any, thread: str) -> None:
    """The owner's mailbox is on a server of its own."""
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 100_000, "interval_ms": 5})
        async for event in runs.events(started.run_id):
            if event.type == "message.delta":
                break
        aborted = await runs.abort(started.run_id, wait=10)
        assert (aborted.outcome, aborted.signal_delivered) == ("aborted", True)
        assert demo_text(100_000).startswith(aborted.run.text)


async def test_a_run_pauses_resumes_and_is_deleted(stage: Any, thread: str) -> None:
    """And its thread, with all of its runs, is gone afterwards."""
    async with client(stage) as runs:
        given: dict[str, Any] = {"tokens": 40, "interval_ms": 2, "approve_at": [20]}
        started = await runs.start(thread, "demo", given)
        run = await paused(runs, started.run_id)
        await runs.resume(started.run_id, **decision(run, "approve"))
        assert (await runs.wait(started.run_id, timeout=20)).status == "succeeded"
        again = await finished(runs, thread, {"tokens": 3, "interval_ms": 0})
        assert again.text == demo_text(3)
        await runs.delete_thread(thread)
        for run_id in (started.run_id, again.run_id):
            with pytest.raises(Exception, match=r"[Nn]o such|not"):
                await runs.get(run_id)


async def test_the_gateway_is_ready_and_doctor_names_every_server(stage: Any, gateway: GatewayThread) -> None:
    """Readiness writes to each of them; `doctor` has a line for each, and counts workers and runs of all."""
    async with gateway.client() as http:
        assert (await http.get("/readyz")).status_code == 200
        metrics = (await http.get("/metrics")).text
    for server in stage.store.primaries:
        assert f'mainstem_store_up{{node="redis://127.0.0.1:{server.port}/0"}} 1.0' in metrics, metrics
    told = await asyncio.to_thread(_doctor, stage)
    for server in stage.store.primaries:
        assert f":{server.port}/" in told, told
    assert "1 alive" in told
    assert "demo" in told


def _doctor(stage: Any) -> str:
    command = [sys.executable, "-c", MAIN, "doctor"]
    env = {**os.environ, **stage.env, "COLUMNS": "200"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False).stdout


def test_what_is_no_run_has_one_home(stage: Any) -> None:
    """Workers, engines and leases are each on the server of their own slot, found by everybody."""
    found = 0
    for server in stage.store.primaries:
        with server.client() as store:
            found += len(store.keys(keys.WORKERS))
    assert found == 1


async def test_a_server_that_is_away_is_named_by_everybody(stage: Any, gateway: GatewayThread) -> None:
    """Readiness, lists, metrics and `doctor` say which, and what is missing; the rest goes on."""
    if stage.store.is_cluster:
        return  # all of it is down then, until a replica is promoted: tests/integration/store/test_cluster_replies.py
    away = stage.store.primaries[1]
    name = f"redis://127.0.0.1:{away.port}/0"
    async with gateway.client() as http:
        assert (await http.get("/readyz")).json()["stores"][name] == "ready"
        away.sigkill()
        try:
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
            assert [it for it, how in ready.json()["stores"].items() if how == "away"] == [name]
            assert (await http.get("/v1/runs")).json()["complete"] is False
            assert (await http.get("/v1/overview")).json()["complete"] is False

            async def is_down() -> bool:
                return f'mainstem_store_up{{node="{name}"}} 0.0' in (await http.get("/metrics")).text

            await wait_until_async(is_down, description="the metrics to say it", timeout_s=20)
            told = await asyncio.to_thread(_doctor, stage)
            assert any(
                line.strip().startswith("✗") and f":{away.port}/" in line for line in told.splitlines()
            ), told
        finally:
            away.start()

        async def is_whole() -> bool:
            return (await http.get("/readyz")).json().get("status") == "ready"

        await wait_until_async(is_whole, description="all to be ready again", timeout_s=20)
