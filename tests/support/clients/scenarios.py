"""Which client, of which version, was seen to do what: the cells of docs/clients.md, each with its test.

A cell names a test, or the words with which something is refused. Missing is what nobody has tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from support.paths import ROOT, TESTS

SCENARIOS: Final = (
    "several turns",
    "cut, then continued",
    "reload during / after",
    "two tabs",
    "stop, then go on",
    "regenerate",
    "own tool",
    "own + worker's tool",
    "approve / reject",
    "length",
    "provider's 4xx, 5xx",
    "error before / in the stream",
    "retry is idempotent",
)
_SDK: Final = "test_ai_sdk_clients.py"
_VERSIONS: Final = "test_client_versions.py"
_RESPONSES: Final = "test_responses_clients.py"
_CHAT: Final = "test_chat_completions.py"
_AG_UI: Final = "test_ag_ui_clients.py"
_FRAMEWORKS: Final = "test_frameworks.py::test_a_framework_does_what_it_does_elsewhere"


def _versions(**more: str) -> dict[str, str]:
    return {
        "several turns": f"{_VERSIONS}::test_several_turns_and_a_regeneration",
        "regenerate": f"{_VERSIONS}::test_several_turns_and_a_regeneration",
        "stop, then go on": f"{_VERSIONS}::test_stop_then_continue",
        "own tool": f"{_VERSIONS}::test_a_call_of_the_clients_own",
        "approve / reject": f"{_VERSIONS}::test_a_decision",
        "retry is idempotent": f"{_VERSIONS}::test_a_double_click_is_one_message",
        **more,
    }


def _openai(name: str) -> dict[str, str]:
    return {
        "several turns": f"{_CHAT}::test_a_conversation_is_a_thread",
        "cut, then continued": f"{_RESPONSES}::test_reconnecting_in_mid_stream",
        "stop, then go on": f"{_RESPONSES}::test_cancel",
        "own tool": f"{_CHAT}::test_the_callers_own_call_and_a_decision",
        "own + worker's tool": f"{_CHAT}::test_what_providers_say",
        "approve / reject": f"{_RESPONSES}::test_approve_edit_and_reject",
        "length": f"{_CHAT}::test_what_providers_say",
        "provider's 4xx, 5xx": f"{_CHAT}::test_what_providers_say",
        "error before / in the stream": f"{_RESPONSES}::test_a_failing_engine",
        "retry is idempotent": f"{_CHAT}::test_a_retry_never_starts_a_second_run",
    } if name == "PyPI" else {
        "cut, then continued": f"{_RESPONSES}::test_reconnecting_in_mid_stream",
        "stop, then go on": f"{_RESPONSES}::test_cancel",
        "approve / reject": f"{_RESPONSES}::test_approve_edit_and_reject",
        "error before / in the stream": f"{_RESPONSES}::test_a_failing_engine",
    }  # fmt: skip


CELLS: Final[Mapping[str, Mapping[str, str]]] = {
    "ai 7": _versions(
        **{
            "cut, then continued": f"{_SDK}::test_a_drained_gateway_is_an_error_and_not_an_end",
            "reload during / after": f"{_VERSIONS}::test_a_tab_that_was_away_while_the_run_ended",
            "two tabs": f"{_SDK}::test_two_tabs_decide",
            "own + worker's tool": f"{_SDK}::test_a_model_with_tools",
            "error before / in the stream": f"{_SDK}::test_a_failing_engine",
        }
    ),
    "ai 6": _versions(),
    "ai 5": _versions(**{"approve / reject": f"{_VERSIONS}::test_a_decision"}),
    "@ag-ui/client 1": {
        "several turns": f"{_AG_UI}::test_a_whole_conversation",
        "cut, then continued": f"{_AG_UI}::test_a_drained_gateway_is_an_error_and_not_an_end",
        "reload during / after": f"{_AG_UI}::test_reload_in_mid_stream",
        "stop, then go on": f"{_AG_UI}::test_cancelled",
        "approve / reject": f"{_AG_UI}::test_approve_edit_and_reject",
        "error before / in the stream": f"{_AG_UI}::test_a_failing_engine",
        "retry is idempotent": f"{_VERSIONS}::test_an_agents_double_click",
    },
    "@ag-ui/client 0.0": {
        "several turns": f"{_VERSIONS}::test_an_older_ag_ui_client",
        "stop, then go on": f"{_VERSIONS}::test_an_older_ag_ui_client",
        "own tool": f"{_VERSIONS}::test_an_older_ag_ui_client",
        "approve / reject": f"{_VERSIONS}::test_an_older_ag_ui_client",
    },
    "openai (PyPI), Responses": _openai("PyPI"),
    "openai (npm), Responses": _openai("npm"),
    "openai (PyPI), Chat Completions": {
        "several turns": f"{_CHAT}::test_the_callers_own_call_and_a_decision",
        "cut, then continued": f"{_CHAT}::test_a_stream_is_continued_at_any_event",
        "own tool": f"{_CHAT}::test_the_callers_own_call_and_a_decision",
        "approve / reject": f"{_CHAT}::test_the_callers_own_call_and_a_decision",
        "length": f"{_CHAT}::test_what_providers_say",
        "provider's 4xx, 5xx": f"{_CHAT}::test_what_providers_say",
        "error before / in the stream": f"{_CHAT}::test_errors_outside_the_routes_are_the_protocols",
        "retry is idempotent": f"{_CHAT}::test_a_retry_never_starts_a_second_run",
    },
    "openai-agents": {"several turns": _FRAMEWORKS, "own tool": _FRAMEWORKS},
    "langchain-openai": {"own tool": _FRAMEWORKS},
    "pydantic-ai": {"own tool": _FRAMEWORKS},
    "langgraph-sdk": {
        "several turns": _FRAMEWORKS,
        "cut, then continued": _FRAMEWORKS,
        "stop, then go on": _FRAMEWORKS,
        "approve / reject": _FRAMEWORKS,
    },
    "a2a-sdk": {
        "cut, then continued": _FRAMEWORKS,
        "stop, then go on": _FRAMEWORKS,
        "retry is idempotent": "test_a2a_http.py::test_a_message_is_one_task",
    },
}


def versions() -> dict[str, str]:
    """The exact versions that the tests run with."""
    npm = json.loads((TESTS / "stock_clients" / "package.json").read_text())["dependencies"]
    pinned = "\n".join((ROOT / "requirements" / f"{name}.txt").read_text() for name in ("test", "frameworks"))
    pypi = dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==([\w.]+)", pinned, re.MULTILINE))
    return {
        "ai 7": npm["ai"],
        "ai 6": npm["ai6"].removeprefix("npm:ai@"),
        "ai 5": npm["ai5"].removeprefix("npm:ai@"),
        "@ag-ui/client 1": npm["@ag-ui/client"],
        "@ag-ui/client 0.0": npm["ag-ui-client-0"].rpartition("@")[2],
        "openai (PyPI), Responses": pypi["openai"],
        "openai (PyPI), Chat Completions": pypi["openai"],
        "openai (npm), Responses": npm["openai"],
        "openai-agents": pypi["openai-agents"],
        "langchain-openai": pypi["langchain-openai"],
        "pydantic-ai": pypi["pydantic-ai-slim"],
        "langgraph-sdk": pypi["langgraph-sdk"],
        "a2a-sdk": pypi["a2a-sdk"],
    }


def table() -> str:
    """The table of docs/clients.md, in Markdown."""
    known, clients = versions(), list(CELLS)
    rows = [
        _row("", clients),
        _row("---", ["---"] * len(clients)),
        _row("version", [known[c] for c in clients]),
    ]
    rows += [_row(name, ["✓" if name in CELLS[client] else "" for client in clients]) for name in SCENARIOS]
    return "\n".join(rows) + "\n"


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |" if first != "---" else f"|---|{'|'.join(cells)}|"
