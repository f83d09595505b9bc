"""A whole stack that asks who is there: `mainstem up` with tokens, on all addresses, used as people use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.fakes.identity_provider import AUDIENCE, ISSUER, SECRET, bearer, token
from support.processes.stacks import PROGRAM, StackProcess


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[StackProcess]:
    settings = {"AUTH": "jwt", "JWT_SECRET": SECRET, "JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE}
    environment = {f"MAINSTEM_{name}": value for name, value in settings.items()}
    with StackProcess(tmp_path, MAINSTEM_HOST="0.0.0.0", **environment) as process:
        process.start().wait_ready()
        yield process


@pytest.mark.slow
def test_a_locked_stack_serves_those_with_a_token(stack: StackProcess) -> None:
    """Settings reach the gateway; the command line shows its token; a browser's stream needs no header."""
    url = stack.url("Gateway")

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        command = ["run", "--url", url, "--engine", "demo", "--input", '{"tokens": 5}']
        return subprocess.run(
            [sys.executable, str(PROGRAM), *command],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    refused = run()
    assert (refused.returncode, "not_authenticated" in refused.stderr) == (2, True), refused.stderr
    served = run(MAINSTEM_TOKEN=token("ann"))
    assert (served.returncode, served.stdout.strip()) == (0, "w0 w1 w2 w3 w4"), served.stderr
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        [found] = http.get("/v1/runs", headers=bearer("ann")).json()["runs"]
        assert http.get("/v1/runs", headers=bearer("bob")).json()["runs"] == []
        events = f"/v1/runs/{found['run_id']}/events"
        given = http.post(f"/v1/runs/{found['run_id']}/stream-token", headers=bearer("ann")).json()["token"]
        assert http.get(events).status_code == 401
        assert b"event: run.finished" in http.get(events, params={"token": given}).content
    flower = stack.url("Flower").replace("0.0.0.0", "127.0.0.1")
    assert "127.0.0.1" in flower
    assert "Flower has no password" in stack.log
