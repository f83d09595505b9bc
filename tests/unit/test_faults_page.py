"""`docs/faults.md` cites tests that exist: for each case its own, and two siblings of its kind at least."""

from __future__ import annotations

import ast
import functools
import re
from typing import NamedTuple

import pytest

from support.paths import ROOT
from support.sources import parse

PAGE = (ROOT / "docs" / "faults.md").read_text()
KINDS = 14
TEST = re.compile(r"`(tests/[\w/]+\.py::\w+)`")


class Case(NamedTuple):
    kind: int
    case: str
    shown_by: str
    siblings: str


def cases() -> list[Case]:
    found: list[Case] = []
    kind = 0
    for line in PAGE.splitlines():
        if heading := re.match(r"## (\d+) ", line):
            kind = int(heading[1])
        elif line.startswith("| ") and not line.startswith("| case |"):
            found.append(Case(kind, *(cell.strip() for cell in line.strip("|").split(" | "))))
    return found


@functools.cache
def names_in(path: str) -> frozenset[str]:
    tree = parse((ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(f"{path}::{node.name}" for node in functions)


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.kind}-{case.case[:24]}")
def test_a_case_has_its_test_and_two_siblings(case: Case) -> None:
    """All different, and all there."""
    (shown_by,) = TEST.findall(case.shown_by)
    siblings = TEST.findall(case.siblings)
    assert case.siblings.count("`") == 2 * len(siblings), "a test whose spelling is not understood"
    assert len({shown_by, *siblings}) == 1 + len(siblings) >= 3
    for test in (shown_by, *siblings):
        assert test in names_in(test.partition("::")[0]), test


def test_every_kind_has_cases() -> None:
    assert {case.kind for case in cases()} == set(range(1, KINDS + 1))
