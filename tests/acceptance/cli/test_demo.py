"""`make demo`: the promise a newcomer sees first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from support.waiting import wait_until

DEMO = [sys.executable, "-m", "mainstem_api.demo"]


@pytest.fixture
def demo(tmp_path):
    """The demo, in a process group of its own as a terminal would start it; its temporary files under ours."""
    env = {**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1"}
    process = subprocess.Popen(
        DEMO, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    process.stdout.close()
    process.stderr.close()


def left_behind(tmp_path) -> list[str]:
    """Every process that works on the demo's data directory."""
    mine = []
    for process in psutil.process_iter():
        try:
            named = " ".join(process.cmdline()), process.environ().get("MAINSTEM_DATA_DIR", ""), process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(str(tmp_path) in part for part in named):
            mine.append(f"{process.pid} {named[0]}")
    return mine


def test_the_demo_holds_and_leaves_nothing(demo, tmp_path):
    """It starts everything, proves its claims, exits 0 and leaves neither process nor file."""
    out, err = demo.communicate(timeout=90)
    assert demo.returncode == 0, out + err
    assert "All of it held" in out
    assert "✗" not in out
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_leaves_nothing(demo, tmp_path):
    """Ctrl-C in the middle (SIGINT to the whole group) ends it and everything it started."""
    wait_until(
        lambda: any("watch" in line for line in left_behind_group(demo.pid)),
        description="the demo to be in mid-stream",
        timeout_s=60,
    )
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait(30) == 130
    assert left_behind(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def left_behind_group(group: int) -> list[str]:
    lines = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                lines.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return lines
