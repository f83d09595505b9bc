"""`MAINSTEM_NODES=3 mainstem up`: a store of three embedded servers, and all that a stack does on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from support.clients.commands import MAIN
from support.processes.stacks import StackProcess
from support.waiting import wait_until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif("MAINSTEM_FLEET_ROUNDS" not in os.environ, reason="takes half a minute: make fleet"),
]


def test_a_stack_of_three_servers(tmp_path: Path) -> None:
    """Runs are on all of them, also after one was killed; commands of the same directory find them; all end."""
    with StackProcess(tmp_path, MAINSTEM_NODES="3", MAINSTEM_SWEEP_S="1") as stack:
        stack.start().wait_ready()
        servers = stack.find("valkey-server")
        assert len(servers) == 3
        with httpx.Client(base_url=stack.url("Gateway"), trust_env=False, timeout=20) as http:
            for number in range(9):
                assert _runs(http, f"t{number}")["status"] == "succeeded"
            servers[1].kill()
            wait_until(
                lambda: http.get("/readyz").status_code == 200 and len(stack.find("valkey-server")) == 3,
                description="the server to be there again",
                timeout_s=60,
            )
            for number in range(9):
                assert _runs(http, f"t{number}")["status"] == "succeeded"
        told = _command(tmp_path, "doctor")
        assert told.count("answers in") == 3
        assert "18 kept" in told
        stack.signal(signal.SIGTERM)
        assert stack.wait_end(30) == 0
        assert not stack.find("valkey-server")


def _runs(http: httpx.Client, thread: str) -> dict[str, str]:
    asked = {"engine": "demo", "input": {"tokens": 5, "interval_ms": 1}}
    started = http.post(f"/v1/threads/{thread}/runs", json=asked)
    assert started.is_success, started.text
    run_id = started.json()["run_id"]
    return wait_until(lambda: _ended(http, run_id), description="the run to end", timeout_s=30)


def _ended(http: httpx.Client, run_id: str) -> dict[str, str] | None:
    run = http.get(f"/v1/runs/{run_id}").json()
    return run if run.get("status") in ("succeeded", "failed", "aborted") else None


def _command(directory: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=directory,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout
