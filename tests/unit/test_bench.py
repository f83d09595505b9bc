"""The bench starts: its rows import what they measure with, which nothing else would notice missing."""

from __future__ import annotations

import re
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


def test_programs_and_pages_name_tests_that_exist():
    """The soak ran no model test after that had moved; a page that names a proof leads to it."""
    named = re.compile(r"tests/[\w/]+\.py")
    pages = [*ROOT.glob("bench/*.py"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "Makefile"]
    missing = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        if page.name != "CHANGELOG.md"
        for name in named.findall(page.read_text())
        if not (ROOT / name).exists()
    }
    assert not missing
