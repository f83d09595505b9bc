"""The tree keeps its plan, where import-linter's contracts cannot see it."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

from support.paths import ROOT
from support.sources import parse

PACKAGES = ("shared/mainstem_shared", "tasks/mainstem_tasks", "workers/mainstem_workers", "api/mainstem_api")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


@pytest.mark.parametrize("root", ["redis", "hiredis", "support", "tests"])
def test_only_the_store_speaks_redis_and_nobody_knows_the_tests(root: str):
    """redis-py is imported in `store` only; the parser also by the channel, which makes error replies of its own."""
    allowed = {"redis": ("store",), "hiredis": ("store", "eventlog/writing/groups.py")}.get(root, ())
    found = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == root or name.startswith(f"{root}.") for name in imported(path.read_text()))
        and not any(f"mainstem_shared/{place}" in str(path) for place in allowed)
    ]
    assert found == []


def test_every_package_says_what_belongs_there():
    """Each package and module begins with a sentence; a stranger reads the plan from `ls` and first lines."""
    silent = [
        str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(parse(path.read_text()))
    ]
    assert silent == []


PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_the_page_shows_the_packages_that_there_are():
    """docs/architecture.md lists the sub-packages of each package as `ls` does."""
    shown = dict(re.findall(r"^((?:shared|tasks|workers|api)/[\w/]+) +([a-z_ ]+)$", PAGE, re.MULTILINE))
    assert set(PACKAGES) < set(shown)
    for package, names in shown.items():
        there = sorted(path.parent.name for path in (ROOT / package).glob("*/__init__.py"))
        assert names.split() == there, package


@pytest.mark.parametrize(
    ("row", "container"),
    [
        ("packages", None),
        ("shared", "mainstem_shared"),
        ("tasks", "mainstem_tasks"),
        ("gateway", "mainstem_api.gateway"),
    ],
)
def test_the_page_shows_the_layers_that_are_checked(row: str, container: str | None):
    """docs/architecture.md has each contract of import-linter as it stands in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(
        contract["layers"]
        for contract in contracts
        if contract["type"] == "layers" and contract.get("containers", [None]) == [container]
    )
    assert f"\n{row:16}{' → '.join(layers)}\n" in PAGE
