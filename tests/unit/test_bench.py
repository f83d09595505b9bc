"""The bench starts: its rows import what they measure with, which nothing else would notice missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_bench_starts():
    """`make bench` calls this program; it imports every row."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench/run.py", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "names of rows" in done.stdout
