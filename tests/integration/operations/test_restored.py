"""A store restored from a copy, as docs/backup.md says: what was finished is there, what was at work is settled."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx

from mainstem_shared import transitions
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until


async def test_a_copy_is_restored(tmp_path: Path):
    """By the page's own steps: a copy of the data set, read without and then with an append-only file."""
    with ValkeyProcess(tmp_path / "old") as server:
        store = Store(server.url())
        finished = await RunLog.start(store, thread_id="finished")
        await finished.claim()
        await finished.say(3)
        await finished.finish()
        working = await RunLog.start(store, thread_id="working")
        await working.claim("a worker that is gone")
        await working.say(2)
        queued = await RunLog.start(store, thread_id="queued")
        with server.client() as client:
            client.save()  # what `valkey-cli --rdb` receives
        await working.say(5)  # what readers saw after the copy
        seen = str(working.top)
        await store.close()
        copied = server.directory / "dump.rdb"

    restored = tmp_path / "new"
    restored.mkdir()
    shutil.copy(copied, restored / "dump.rdb")
    with ValkeyProcess(restored, "--appendonly", "no") as server:
        with server.client() as client:
            client.config_set("appendonly", "yes")
            wait_until(
                lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0,
                description="the append-only file to be written",
            )
        server.options = ()
        server.restart()
        with GatewayThread(server.url(0), server.url(1), lease_s=0.5, sweep_s=0.2) as gateway:
            wait_until(
                lambda: read(gateway, working)["status"] == "failed",
                description="the run to be settled",
                timeout_s=60,
            )
            assert (read(gateway, working)["reason"], read(gateway, working)["text"]) == (
                "worker_lost",
                "w0 w1",
            )
            assert (read(gateway, finished)["status"], read(gateway, finished)["text"]) == (
                "succeeded",
                "w0 w1 w2",
            )
            assert read(gateway, queued)["status"] == "queued"
            async with gateway.client() as client:
                told = await client.get(f"/v1/runs/{working.run_id}/events", headers={"last-event-id": seen})
            assert "event: snapshot" in told.text or "event: run.finished" in told.text
            assert '"w0 w1"' in told.text
        store = Store(server.url())
        state = await transitions.read(store, finished.run_id)
        assert isinstance(state, transitions.State)
        await store.close()


def read(gateway: GatewayThread, log: RunLog) -> dict[str, str]:
    return httpx.get(f"{gateway.url}/v1/runs/{log.run_id}", trust_env=False).json()
