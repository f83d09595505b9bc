"""Frameworks of PyPI and npm as clients of a live stack, in environments of their own: `make frameworks`."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from support.clients.cells import Showing
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.gateways import GatewayThread

NPM_HOME = TESTS / "stock_clients" / "npm_frameworks"
PYTHON = os.environ.get("MAINSTEM_FRAMEWORKS", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="a job of its own: make frameworks")
LOOP = {"responses": "It is blue.", "responses streamed": "It is blue."}
CHAT_LOOP = {"chat": "It is blue.", "chat streamed": "It is blue."}
EXPECTED: dict[str, dict[str, Any]] = {
    "openai-agents": {**LOOP, **CHAT_LOOP, "conversation": "user:One|assistant:user:One|user:Two"},
    "langchain-openai": {**LOOP, **CHAT_LOOP},
    "pydantic-ai": {**LOOP, **CHAT_LOOP},
    "litellm": {
        **LOOP,
        **CHAT_LOOP,
        "turns": "user:One|assistant:First|user:Two",
        "refused": "NotFoundError",
    },
    "a2a-sdk": {
        "text": "Hello there",
        "state": "TASK_STATE_COMPLETED",
        "subscribed": demo_text(60),
        "asked": "TASK_STATE_INPUT_REQUIRED",
        "answered": "TASK_STATE_COMPLETED",
        "artifact": "w0 w1 blue w2 w3",
        "cancelled": "TASK_STATE_CANCELED",
        "listed": True,
        "unknown": "TaskNotFoundError",
    },
    "langgraph-sdk": {
        "wait": "user:One",
        "values": "user:One|assistant:user:One|user:Two",
        "state": ["human", "ai"] * 2,
        "history": 2,
        "joined": demo_text(60),
        "interrupt": "tool_approval",
        "status": "interrupted",
        "resumed": demo_text(4),
        "cancelled": "interrupted",
        "assistants": True,
    },
}


TURNS = "user:One|assistant:First|user:Two"
NPM: dict[str, dict[str, Any]] = {
    "@ai-sdk/openai": {**LOOP, **CHAT_LOOP, "responses turns": TURNS, "chat turns": TURNS},
    "@openai/agents": {**LOOP, **CHAT_LOOP, "conversation": "user:One|assistant:user:One|user:Two"},
    "@langchain/langgraph-sdk": {
        "wait": "user:One",
        "values": "user:One|assistant:user:One|user:Two",
        "state": ["human", "ai"] * 2,
        "joined": demo_text(60),
        "interrupt": "tool_approval",
        "status": "interrupted",
        "resumed": demo_text(4),
        "cancelled": "interrupted",
    },
}
SHOWN: dict[str, tuple[str, ...]] = {
    "openai-agents": ("several turns", "own tool"),
    "langchain-openai": ("own tool",),
    "pydantic-ai": ("own tool",),
    "litellm": ("several turns", "own tool", "error before the stream"),
    "langgraph-sdk": (
        "several turns",
        "cut, then continued",
        "reload during the run",
        "stop, then go on",
        "approve",
    ),
    "@ai-sdk/openai": ("several turns", "own tool"),
    "@openai/agents": ("several turns", "own tool"),
    "@langchain/langgraph-sdk": (
        *("several turns", "cut, then continued", "reload during the run", "stop, then go on", "approve"),
    ),
    "a2a-sdk": ("reload during the run", "stop, then go on", "error before the stream"),
}
"""What of `cells.SCENARIOS` that is."""


@pytest.mark.parametrize("framework", EXPECTED)
def test_a_framework_does_what_it_does_elsewhere(gateway: GatewayThread, framework: str, shows: Showing):
    """Unmodified, with nothing but the address: its own tool loop ends with the same answer, however it asks."""
    program = [PYTHON, str(TESTS / "stock_clients" / "frameworks.py"), gateway.url, framework]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == EXPECTED[framework]
    shows(framework, *SHOWN[framework])


@pytest.mark.parametrize("framework", NPM)
def test_a_framework_of_npm_does_what_it_does_elsewhere(
    gateway: GatewayThread, framework: str, shows: Showing
):
    """The same, of npm."""
    program = ["node", str(NPM_HOME / "frameworks.mjs"), gateway.url, framework]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == NPM[framework]
    shows(framework, *SHOWN[framework])


def test_langgraphs_react_hook_is_a_chat(gateway: GatewayThread):
    """`useStream`, as it is: turns, an edit on a branch, an interrupt that is resumed, a reload during the run."""
    program = ["node", str(NPM_HOME / "use_stream.mjs"), gateway.url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    one = ["One", "user:One"]
    turns = [*one, "Two", "user:One|assistant:user:One|user:Two"]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "turns": turns,
        "turns that reconnect": turns,
        "edit": [*one, "2", "user:One|assistant:user:One|user:2"],
        "interrupt": ["tool_approval", 1],
        "reload": demo_text(60),
    }
