"""The conformance suite's agent as a conversation for the built-in engines: their settings, and their tools."""

from __future__ import annotations

from typing import Any
from unittest import mock

from pydantic import SecretStr

from mainstem_tasks.sdk import tools
from support.engines import framework_tools

KEY = SecretStr("sk-verysecretkey")
ENGINES: dict[str, str] = {"anthropic": "anthropic", "openai": "openai", "openai_responses": "openai"}
"""Columns of the suite, and the engine of each."""


def settings(column: str, url: str) -> dict[str, Any]:
    """Return what a deployment sets for the engine to ask this provider."""
    if column == "anthropic":
        return {"anthropic_base_url": url, "anthropic_api_key": KEY, "anthropic_model": "mock-1"}
    api = "responses" if column == "openai_responses" else "chat"
    return {"openai_base_url": url, "openai_api_key": KEY, "openai_model": "mock-1", "openai_api": api}


def asked(text: str) -> dict[str, Any]:
    """Return the input that says a text on a thread."""
    return {"messages": [{"role": "user", "content": text}], "history": True, "use_tools": sorted(TOOLS)}


def _tools() -> dict[str, tools.Tool]:
    """Register the suite's tools under their names apart from those of other tests."""
    with mock.patch.object(tools, "_tools", {}):
        tools.tool(ask=True)(framework_tools.transfer)
        for function in (framework_tools.get_weather, framework_tools.block, framework_tools.wait):
            tools.tool()(function)
        return tools._tools


TOOLS = _tools()
