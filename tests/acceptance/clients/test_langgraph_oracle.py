"""LangGraph's SDK sees the same here as at `langgraph dev`, the server of its makers: one script, two transcripts.

The transcript of `langgraph dev` is recorded (`golden/langgraph.json`). `make frameworks` compares ours with it;
`make langgraph-oracle` starts that server, too, and compares its transcript with the record first.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.servers import Guard, free_port
from support.waiting import wait_until

PYTHON = os.environ.get("MAINSTEM_FRAMEWORKS", "")
ORACLE = os.environ.get("MAINSTEM_LANGGRAPH_DEV", "")
RECORD = TESTS / "golden" / "langgraph.json"
HOME = TESTS / "stock_clients"
OURS: dict[str, Any] = {
    "threads": {"deleted": "accepted"},
}
"""What is otherwise here: a thread is a name, which is empty before its first run and after its deletion."""

needs_sdk = pytest.mark.skipif(not PYTHON, reason="a job of its own: make frameworks")
needs_oracle = pytest.mark.skipif(not ORACLE, reason="a job of its own: make langgraph-oracle")


def transcript(python: str, url: str) -> dict[str, Any]:
    """What the SDK sees there."""
    program = [python, str(HOME / "langgraph_transcript.py"), url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def oracle(tmp_path: Path) -> Iterator[str]:
    """Run `langgraph dev`; its environment is `langgraph-cli[inmem]` from PyPI."""
    port = free_port()
    program = [str(Path(ORACLE).parent / "langgraph"), "dev", "--no-browser", "--no-reload"]
    quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*program, "--port", str(port), "--n-jobs-per-worker", "4"],
            cwd=HOME / "langgraph_app",
            env={**os.environ, **quiet},
            stdout=log,
            stderr=log,
        )
        guard = Guard(server.pid)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: _answers(url), description="langgraph dev to listen", timeout_s=120)
            yield url
        finally:
            server.kill()
            server.wait()
            guard.dismiss()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ok", trust_env=False).is_success
    except httpx.HTTPError:
        return False


@needs_oracle
def test_the_record_is_what_langgraph_dev_does(oracle: str):
    """MAINSTEM_GOLDEN=write writes it anew."""
    seen = transcript(ORACLE, oracle)
    if os.environ.get("MAINSTEM_GOLDEN") == "write":
        RECORD.write_text(json.dumps(seen, indent=1) + "\n")
    assert seen == json.loads(RECORD.read_text())


@needs_sdk
@pytest.mark.parametrize("part", json.loads(RECORD.read_text()))
def test_ours_is_the_same(part: str, ours: dict[str, Any]):
    """But for what `OURS` names."""
    expected = json.loads(RECORD.read_text())[part]
    assert ours[part] == {**expected, **OURS.get(part, {})}


@pytest.fixture(scope="module")
def ours(gateway: GatewayThread) -> dict[str, Any]:
    return transcript(PYTHON, f"{gateway.url}/v1/langgraph")
