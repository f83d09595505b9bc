"""Digests are stored: their size and what they are taken of must stay as they are."""

from __future__ import annotations

import re
from pathlib import Path

from mainstem_shared.model import digests

SOURCES = Path(__file__).parents[2]


def test_a_digest_of_json_does_not_depend_on_the_order_of_members():
    """The same request, spelled in another order, is the same request; records have this very digest."""
    first = digests.of_json({"engine": "demo", "input": {"a": 1, "b": "é"}})
    assert first == digests.of_json({"input": {"b": "é", "a": 1}, "engine": "demo"})
    assert first == "175511e9dd118a2ae5944b077b363b4d"


def test_the_size_is_in_bytes():
    assert len(digests.digest(b"x", size=10)) == 10
    assert digests.hex_digest(b"x") == digests.digest(b"x").hex()


def test_nobody_else_makes_digests():
    """One module spells the algorithm; a second spelling would be a second size, one day."""
    users = {
        path.relative_to(SOURCES).as_posix()
        for package in ("shared", "tasks", "workers", "api")
        for path in (SOURCES / package).rglob("*.py")
        if re.search(r"blake2b\(", path.read_text("utf-8"))
    }
    assert users == {"shared/mainstem_shared/model/digests.py"}
