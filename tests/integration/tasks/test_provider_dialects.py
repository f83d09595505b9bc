"""Every recorded dialect, through every engine that speaks its protocol, and on to every client; and the page about them.

`docs/providers.md` is made of what the engines really did; MAINSTEM_GOLDEN=write writes it anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from mainstem_shared.model import jsontext
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.openai import responses
from mainstem_tasks.engines.turns import answers, transport
from mainstem_tasks.testing import EngineRun, ProviderServer, histories, run_engine
from mainstem_tasks.testing.dialects import CHAT, DIALECTS, KINDS, MESSAGES, RESPONSES, Dialect
from support.engines import builtin_engines, dialect_tools
from support.models import client_views
from support.paths import ROOT

PAGE = ROOT / "docs" / "providers.md"
ENGINES = {"openai": CHAT, "openai_responses": RESPONSES, "anthropic": MESSAGES}
"""Engines, as they are set up, and the protocol that each speaks to its provider."""
CASES = [
    (name, dialect)
    for name, protocol in ENGINES.items()
    for dialect in DIALECTS
    if dialect.protocol == protocol
]
IDS = [f"{name}-{dialect.name}" for name, dialect in CASES]
BY_NAME = {dialect.name: dialect for dialect in DIALECTS}

pytestmark = pytest.mark.usefixtures("closing_clients", "hurried")


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that no header paces come at once; the grace is shorter than any of a test's patience."""
    monkeypatch.setattr(transport, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(answers, "GRACE_S", 0.3)


async def play(server: ProviderServer, engine: str, dialect: Dialect) -> EngineRun:
    dialect_tools.RAN.clear()
    server.reply(*dialect.replies)
    wanted = {"messages": [{"role": "user", "content": "Do it."}], **dialect.wanted}
    responses._without_reasoning.clear()
    settings = Settings(**builtin_engines.settings(engine, server.url))
    return await run_engine(builtin_engines.ENGINES[engine], wanted, check=False, settings=settings)


def calls_of(run: EngineRun) -> list[tuple[str, Any]]:
    """The run's calls: arguments of those that were whole, None for those that failed."""
    calls = [part for part in run.content if part["type"] == "tool_call"]
    whole = [
        isinstance(call["arguments"], dict) and call["state"] in ("called", "completed") for call in calls
    ]
    return [(call["name"], call["arguments"] if ok else None) for call, ok in zip(calls, whole, strict=True)]


def reasoning_of(run: EngineRun) -> str:
    return "".join(part["text"] for part in run.content if part["type"] == "reasoning")


@pytest.mark.parametrize(("engine", "dialect"), CASES, ids=IDS)
async def test_a_dialect_has_its_right_outcome(server: ProviderServer, engine: str, dialect: Dialect):
    """The message, its calls, what ran, the counts, the failure in words, and how often the provider was asked."""
    run = await play(server, engine, dialect)
    assert (run.text, reasoning_of(run), calls_of(run)) == (dialect.text, dialect.reasoning, [*dialect.calls])
    wanted = [call for call in dialect.calls if call[1] is not None]
    assert sorted(map(repr, dialect_tools.RAN)) == sorted(map(repr, wanted)), (
        "a tool ran on what the model did not say"
    )
    assert dialect.failure in str(run.error or "")
    assert (run.error is None) == (not dialect.failure), run.error
    assert len(server.requests) == dialect.requests
    usage = None if run.usage is None or run.usage.estimated else run.usage  # estimates are of no provider
    assert (None if usage is None else (usage.input_tokens, usage.output_tokens)) == dialect.usage
    _check_transcript(server)


def _check_transcript(server: ProviderServer) -> None:
    """Each call of an assistant's message is answered once, in order, at once: what strict providers demand."""
    for request in server.requests:
        assert histories.fault_of(request.path, request.body) is None


@pytest.mark.parametrize("client", client_views.CLIENTS)
async def test_every_client_gets_the_same(server: ProviderServer, client: str):
    """Message, calls and end of every dialect are for clients of each protocol what they are in the run."""
    for engine, dialect in CASES:
        run = await play(server, engine, dialect)
        view = client_views.CLIENTS[client](client_views.log_of(run))
        assert (view.text, view.reasoning) == (run.text, reasoning_of(run)), dialect.name
        # Some clients have arguments only as the text that came: an escaped half in it is the model's own.
        assert jsontext.well_formed(view.made) == [[*call] for call in calls_of(run)], dialect.name
        assert view.error == str(run.error or ""), dialect.name


@pytest.mark.parametrize("dialect", [d for d in DIALECTS if d.kind == "failures"], ids=lambda d: d.name)
def test_what_would_fail_again_is_asked_once(dialect: Dialect):
    """The table says once or four times: never a number in between."""
    assert dialect.requests in (1, 4)


def test_every_kind_has_siblings():
    """A fault is one case of a kind: each kind has at least three dialects, each dialect its own name."""
    assert len(BY_NAME) == len(DIALECTS)
    for kind in KINDS:
        assert sum(dialect.kind == kind for dialect in DIALECTS) >= 3, kind


async def test_the_page_about_providers_is_current(server: ProviderServer):
    """Its tables are what the engines do today."""
    observed = [(dialect, await _observed(server, engine, dialect)) for engine, dialect in CASES]
    page = _page(observed)
    if os.environ.get("MAINSTEM_GOLDEN") == "write":
        PAGE.write_text(page)
    assert page == PAGE.read_text()


async def _observed(server: ProviderServer, engine: str, dialect: Dialect) -> str:
    run = await play(server, engine, dialect)
    said = []
    if reasoning := reasoning_of(run):
        said.append(f"reasoning {_code(reasoning)}")
    for name, arguments in calls_of(run):
        shown = name if len(name) < 20 else f"{name[:8]}…"
        said.append(
            f"call `{shown}` fails"
            if arguments is None
            else f"call {_code(f'{shown}({json.dumps(arguments, ensure_ascii=False)})')}"
        )
    if run.text:
        said.append(f"text {_code(run.text)}")
    if run.usage and not run.usage.estimated:
        said.append(f"{run.usage.input_tokens} + {run.usage.output_tokens} tokens")
    if run.error:
        said.append(f"**fails**: {run.error}")
    return "; ".join(said).replace("|", "\\|")


def _code(text: str) -> str:
    return (
        "`"
        + text.replace("\n", "\\n").replace("\u2028", "\\u2028").replace("\x85", "\\u0085").replace("`", "'")
        + "`"
    )


def _page(observed: list[tuple[Dialect, str]]) -> str:
    head = PAGE.read_text().partition("\n## ")[0] if PAGE.exists() else "# Providers\n"
    parts = [head.rstrip() + "\n"]
    for kind, title in KINDS.items():
        rows = [(d, outcome) for d, outcome in observed if d.kind == kind]
        if kind == "failures":
            continue
        lines = [f"| {d.family} | {d.quirk} | {outcome} | `{d.name}` |" for d, outcome in rows]
        parts.append(
            "\n".join(
                [
                    f"## {title}\n",
                    "| provider | what it sends | outcome | dialect |",
                    "|---|---|---|---|",
                    *lines,
                    "",
                ]
            )
        )
    rows = [(d, outcome) for d, outcome in observed if d.kind == "failures"]
    lines = [f"| {d.family} | {d.quirk} | {outcome} | {d.requests} | `{d.name}` |" for d, outcome in rows]
    table = [
        "| provider | what it sends | outcome | completions asked for | dialect |",
        "|---|---|---|---|---|",
        *lines,
        "",
    ]
    parts.append("\n".join([f"## {KINDS['failures']}\n", *table]))
    return "\n".join(parts)
