"""docs/contract.md keeps its word: every item once, every row with its evidence, every named test there."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from typing import NamedTuple

import pytest

from support.paths import ROOT
from support.sources import parse

LAST_ITEM = 244
STANDS = ("met by ", "impossible because ", "not applicable because ", "open: ")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
FILE = re.compile(r"`(tests/[\w/]+\.py)(?:::\w+)?`")


class Row(NamedTuple):
    item: int
    promise: str
    stand: str


def rows() -> list[Row]:
    found: list[Row] = []
    for line in (ROOT / "docs" / "contract.md").read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| # "):
            continue
        item, promise, stand = (cell.strip() for cell in line.strip("|").split(" | "))
        found.append(Row(int(item), promise, stand))
    return found


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """Names of a file's test functions."""
    tree = parse((ROOT / path).read_text())
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_every_item_is_there_exactly_once():
    """In a row of its own."""
    assert Counter(row.item for row in rows()) == Counter(range(1, LAST_ITEM + 1))


@pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.item))
def test_a_row_says_how_its_guarantee_is_met(row: Row):
    """One of four words; what is met names tests, and every test and file that is named exists."""
    assert row.promise
    assert row.stand.startswith(STANDS), row.stand
    named = TEST.findall(row.stand)
    assert named or not row.stand.startswith("met by ")
    for path, name in named:
        assert name in names_in(path), f"{path}::{name}"
    for path in FILE.findall(row.stand):
        assert (ROOT / path).is_file(), path
    assert row.stand.count("`tests/") == len(FILE.findall(row.stand)), (
        "a test whose spelling is not understood"
    )
