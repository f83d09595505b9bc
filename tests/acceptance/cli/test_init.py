"""`mainstem init` refuses to overwrite, and names that fit no package; `test_adopter.py` runs what it wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.processes.stacks import PROGRAM


def init(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, "init", directory], capture_output=True, text=True, timeout=60, check=False
    )


def test_nothing_is_overwritten_and_names_must_fit(tmp_path: Path):
    made = init(tmp_path / "my-haikus")
    assert made.returncode == 0, made.stderr
    assert "mainstem up" in made.stdout
    engines = tmp_path / "my-haikus" / "my_haikus" / "engines.py"
    engines.write_text("# mine")
    again = init(tmp_path / "my-haikus")
    assert (again.returncode, engines.read_text()) == (2, "# mine")
    assert "nothing was written" in again.stderr
    refused = init(tmp_path / "1st")
    assert (refused.returncode, list(tmp_path.iterdir())) == (2, [tmp_path / "my-haikus"])
