"""`docs/security.md` cites tests and modules that exist: what it promises has somewhere to be looked up."""

from __future__ import annotations

import re

from support.paths import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_and_module_that_is_cited_exists() -> None:
    """By name, wherever they stand."""
    files = [path.relative_to(ROOT).as_posix() for part in ("api", "shared", "tasks", "tests", "workers")
             for path in (ROOT / part).rglob("*.py")]  # fmt: skip
    cited = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(cited) > 20
    for name in cited:
        assert any(path.endswith(f"/{name}") for path in files), name


def test_every_boundary_has_a_test() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    boundaries = [row for row in rows if len(row) == 6 and row[1].strip() != "boundary"]
    assert len(boundaries) >= 15
    assert all("test_" in row[4] for row in boundaries)


def test_the_policy_points_here() -> None:
    assert "(docs/security.md)" in (ROOT / "SECURITY.md").read_text()
