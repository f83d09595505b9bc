"""Operations change runs by one protocol, and one module writes the indexes: nobody goes around them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstem_shared import transitions
from mainstem_shared.operations import performing
from mainstem_shared.operations.performing import TRANSITIONS, WITHOUT_PROTOCOL, IndexedTransition, Operations
from mainstem_shared.store.client import Script
from support.sources import parse

ROOT = Path(__file__).parents[2]
PRODUCT = ("shared/mainstem_shared", "tasks/mainstem_tasks", "workers/mainstem_workers", "api/mainstem_api")
INDEX_KEYS = {"INDEXES", "FIRST_INDEXES", "every_index", "indexes", "owned", "user_runs", "user_slots"}
"""What `keys` calls the indexes."""
OWNER = "shared/mainstem_shared/operations/indexes.py"
READERS = {
    "shared/mainstem_shared/operations/queries/listings.py": "pages through recent runs and a user's",
    "shared/mainstem_shared/operations/queries/summaries.py": "reads unfinished runs",
    "shared/mainstem_shared/operations/migration.py": "reads which threads version 1 kept",
    "shared/mainstem_shared/transitions/first_version.py": "looks whether version 1 kept a run",
    "shared/mainstem_shared/store/topologies.py": "looks whether a server that becomes a shard has runs",
    "shared/mainstem_shared/coordination/leases.py": "looks whether a process owns anything",
    "api/mainstem_api/cli/doctor.py": "counts unfinished and recent runs",
    "shared/mainstem_shared/transitions/quota.py": "the verb `take_slot`, whose key a user's slots are",
}
"""Other modules that name an index: they read it."""
_ANY = "|".join(sorted(INDEX_KEYS))
WRITES = re.compile(
    r"\.(zadd|zrem\w*|zpop\w*|sadd|srem|spop|p?expire|delete|unlink|rename)\([^)]*?"
    rf"(keys\.({_ANY})\b|\bindex\b)|"
    r"""["'](ZADD|ZREM\w*|ZPOP\w*|SADD|SREM|SPOP|P?EXPIRE|DEL|UNLINK)["']\s*,\s*"""
    rf"(keys\.({_ANY})\b|index\b)"
)
"""A command that writes, on an index."""


def sources() -> Iterator[tuple[str, str]]:
    for package in PRODUCT:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def named_indexes(source: str) -> set[str]:
    """The index keys that a module names, as `keys.INDEXES` or imported from `keys`."""
    found: set[str] = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "keys":
            found.add(node.attr)
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("store.keys"):
            found.update(alias.name for alias in node.names)
    return found & INDEX_KEYS


def test_one_module_writes_the_indexes():
    """Nobody else names their keys, but for those who read them; and these send no command that writes one."""
    users = {name for name, source in sources() if named_indexes(source)}
    assert users == {OWNER, *READERS}
    for name, source in sources():
        if name != OWNER:
            assert WRITES.search(source) is None, name


def test_every_script_is_an_operation_or_says_why_not():
    """A verb that is new is registered, so that it has its check, its tidying and its crash test."""
    scripts = {value.name for value in vars(transitions).values() if isinstance(value, Script)}
    assert set(TRANSITIONS) | set(WITHOUT_PROTOCOL) == scripts
    assert not set(TRANSITIONS) & set(WITHOUT_PROTOCOL)


def test_nobody_calls_an_operations_verb_directly():
    """Whoever did would change a run that no healer finds, or leave indexes and owners behind."""
    for name, source in sources():
        for node in ast.walk(parse(source)):
            is_use = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "transitions"
                and node.attr in TRANSITIONS
            )
            assert not is_use or name == "shared/mainstem_shared/operations/performing.py", (
                name,
                node.lineno,
            )  # type: ignore[attr-defined]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "mainstem_shared.transitions"
            ):
                inside = name.startswith("shared/mainstem_shared/transitions/")
                assert inside or not {alias.name for alias in node.names} & set(TRANSITIONS), name


def test_no_transition_without_its_notification():
    """`notify` has no default: whoever has nobody to tell says so."""
    notify = inspect.signature(Operations.perform).parameters["notify"]
    assert notify.kind is inspect.Parameter.KEYWORD_ONLY
    assert notify.default is inspect.Parameter.empty


@pytest.mark.parametrize("name", sorted(TRANSITIONS))
def test_every_transition_says_how_it_is_found(name: str):
    """By a check or a list; the documentation has it in the same words."""
    made = TRANSITIONS[name]
    assert made.found_by
    pairs = (ROOT / "docs" / "pairs.md").read_text("utf-8")
    row = re.search(rf"^\| `{name}` \| (.*?) \|", pairs, re.MULTILINE)
    assert row is not None, f"docs/pairs.md has no row of `{name}`"
    assert row[1] == made.found_by, "the table must say the same"


def test_a_transition_is_registered_by_being_made(monkeypatch: pytest.MonkeyPatch):
    """It cannot be left out of the registry, which the crash tests are held against."""
    monkeypatch.setattr(performing, "TRANSITIONS", registry := {})

    async def verb(store: object, run_id: str) -> None:
        """Change nothing."""

    made = IndexedTransition(verb, name="new", found_by="nothing")  # type: ignore[arg-type]
    assert registry == {"new": made}
