"""Histories of the fleet, short ones: they keep the properties, and a seed is one history in every process.

`make simulate` lives through long ones, from ever new seeds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from support.paths import ROOT


def sample(count: int) -> dict[str, Any]:
    """Run the sample in a process of its own: hashes of texts, and modules, are this process's own."""
    done = subprocess.run(
        [sys.executable, "-m", "simulation", "--sample", str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def histories() -> dict[str, Any]:
    return sample(2)


def test_a_fleet_under_faults_keeps_its_properties(histories: dict[str, Any]) -> None:
    """Nobody is stuck, readers got the log, ends are final, nothing is left over, whatever the seeds break."""
    assert {seed: found["violations"] for seed, found in histories.items()} == {
        seed: [] for seed in histories
    }
    assert all(found["runs"] >= 3 for found in histories.values())


def test_a_seed_is_one_history(histories: dict[str, Any]) -> None:
    """Another process lives through the same histories, byte for byte."""
    assert sample(1).items() <= histories.items()
