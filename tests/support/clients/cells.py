"""Records which client, of which version, was seen to do what: the cells of docs/clients.md.

A test says what it has shown (`shows`); `make clients` writes that to `golden/clients.json`, and every
other run compares. What a client has no means to do stands in `LACKS`, with the reason. No cell is empty.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from support.paths import ROOT, TESTS

FILE: Final = TESTS / "golden" / "clients.json"
WRITES: Final = os.environ.get("MAINSTEM_CLIENTS") == "write"
PASSES: Final = "✓"

SCENARIOS: Final = (
    "several turns",
    "cut, then continued",
    "reload during the run",
    "reload after the run",
    "two tabs",
    "stop, then go on",
    "regenerate",
    "edit a message",
    "own tool",
    "own + worker's tool",
    "approve",
    "reject",
    "approve an edited call",
    "refusal",
    "length",
    "provider's 400, 401, 429, 503",
    "files",
    "error before the stream",
    "error in the stream",
    "retry is idempotent",
)

_SDK: Final = ("ai 7", "ai 6", "ai 5")
_AG_UI: Final = ("@ag-ui/client 1", "@ag-ui/client 0.0")
_RESPONSES: Final = ("openai (PyPI), Responses", "openai (npm), Responses")
_CHAT: Final = ("openai (PyPI), Chat Completions", "openai (npm), Chat Completions")
GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "Frontends": (*_SDK, *_AG_UI),
    "OpenAI": (*_RESPONSES, *_CHAT),
}
"""Tables: what the tests of every run show."""
FRAMEWORKS: Final = (
    *("openai-agents", "langchain-openai", "pydantic-ai", "litellm", "langgraph-sdk", "a2a-sdk"),
    *("@ai-sdk/openai", "@openai/agents", "@langchain/langgraph-sdk"),
)
"""What `make frameworks` shows: each has scenarios of its own."""
PACKAGES: Final[Mapping[str, str]] = {
    "ai 7": "npm:ai",
    "ai 6": "npm:ai6",
    "ai 5": "npm:ai5",
    "@ag-ui/client 1": "npm:@ag-ui/client",
    "@ag-ui/client 0.0": "npm:ag-ui-client-0",
    "openai (PyPI), Responses": "openai",
    "openai (PyPI), Chat Completions": "openai",
    "openai (npm), Responses": "npm:openai",
    "openai (npm), Chat Completions": "npm:openai",
    **{name: f"{'lock' if name[0] == '@' else 'pin'}:{name}" for name in FRAMEWORKS},
    "pydantic-ai": "pin:pydantic-ai-slim",
}
_STATELESS: Final = "the client keeps the conversation, and knows no run that it could come back to"
LACKS: Final[Mapping[str, Mapping[str, str]]] = {
    "ai 5": {"approve an edited call": "approvals have no arguments"},
    "ai 6": {"approve an edited call": "approvals have no arguments"},
    "ai 7": {"approve an edited call": "approvals have no arguments"},
    **{
        client: {
            "cut, then continued": _STATELESS,
            "reload during the run": _STATELESS,
            "reload after the run": _STATELESS,
            "two tabs": _STATELESS,
            "stop, then go on": _STATELESS,
            "approve an edited call": "a tool's result is text",
        }
        for client in _CHAT
    },
}
"""What a client has no words for."""


def version(client: str) -> str:
    """The version that is installed here; of a framework, the one that is pinned."""
    kind, _, name = PACKAGES[client].rpartition(":")
    if kind == "lock":
        listed = (TESTS / "stock_clients" / "npm_frameworks" / "package.json").read_text()
        return json.loads(listed)["dependencies"][name]
    if kind == "pin":
        pins = (ROOT / "requirements" / "frameworks.txt").read_text()
        found = re.search(rf"^{name}(?:\[\w+\])?==([\w.]+)", pins, re.MULTILINE)
        assert found is not None, name
        return found[1]
    if kind != "npm":
        return metadata.version(name)
    package = TESTS / "stock_clients" / "node_modules" / name / "package.json"
    return json.loads(package.read_text())["version"]


class Showing:
    """What one test shows."""

    def __init__(self, test: str) -> None:
        self._test = test
        self._shown: dict[str, dict[str, dict[str, str]]] = {}

    def __call__(self, client: str, *scenarios: str, outcome: str = PASSES) -> None:
        """A client did these; or they are refused, in these words."""
        assert set(scenarios) <= set(SCENARIOS), scenarios
        cells = {name: {"outcome": outcome, "test": self._test} for name in scenarios}
        self._shown.setdefault(client, {}).update(cells)

    def settle(self) -> None:
        """Write what was shown; or compare it with what is written, in both directions."""
        if WRITES:
            with _alone():
                _write(self._shown)
            return
        written = load()
        ours = {
            client: {name: cell for name, cell in found["cells"].items() if cell["test"] == self._test}
            for client, found in written.items()
        }
        said = {client: cells for client, cells in ours.items() if cells}
        assert said == self._shown, "docs/clients.md says something else: make clients"
        for client in self._shown:
            assert written[client]["version"] == version(client), f"{client}: make clients"


def load() -> dict[str, dict[str, Any]]:
    """What is written: `{client: {version, cells: {scenario: {outcome, test}}}}`."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def _write(shown: Mapping[str, Mapping[str, Any]]) -> None:
    written = load()
    for client, cells in shown.items():
        found = written.setdefault(client, {"cells": {}})
        found["version"] = version(client)
        found["cells"].update(cells)
    FILE.write_text(json.dumps(written, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def _alone() -> Iterator[None]:
    """Hold a lock that other processes of this run wait for."""
    with (Path(tempfile.gettempdir()) / "mainstem-clients-table.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cell(client: str, scenario: str) -> str:
    """What the page says: ✓, a refusal, or n/a where the client has no words for it."""
    found = load().get(client, {"cells": {}})["cells"].get(scenario)
    if found is not None:
        return found["outcome"]
    return "n/a" if scenario in LACKS.get(client, {}) else ""


def table() -> str:
    """The tables of docs/clients.md, in Markdown."""
    return "\n".join([*(_table(title, clients) for title, clients in GROUPS.items()), _frameworks()])


def _frameworks() -> str:
    known = load()
    rows = ["| Frameworks | version | what `make frameworks` shows |", "|---|---|---|"]
    for client in FRAMEWORKS:
        cells = known.get(client, {"version": "", "cells": {}})
        shown = "; ".join(name for name in SCENARIOS if name in cells["cells"])
        rows.append(f"| {client} | {cells['version']} | {shown} |")
    return "\n".join(rows) + "\n"


def _table(title: str, clients: Sequence[str]) -> str:
    known = load()
    rows = [
        _row(title, clients),
        "|---" * (len(clients) + 1) + "|",
        _row("version", [known.get(client, {}).get("version", "") for client in clients]),
        *(_row(name, [cell(client, name) for client in clients]) for name in SCENARIOS),
    ]
    why: dict[str, list[str]] = {}
    for client in clients:
        for scenario, reason in LACKS.get(client, {}).items():
            names = why.setdefault(reason, [])
            names += [scenario] if scenario not in names else []
    notes = [f"* n/a ({'; '.join(names)}): {reason}." for reason, names in why.items()]
    return "\n".join([*rows, *(["", *notes] if notes else [])]) + "\n"


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"
