"""Serves agents of the OpenAI Agents SDK as engines: `serve_agent("desk", agent)`.

Needs the extra `openai-agents`.
"""

from __future__ import annotations

import importlib.util

from mainstem_tasks.sdk.registry import MissingExtraError

if importlib.util.find_spec("agents") is None:
    raise MissingExtraError("agents of the OpenAI Agents SDK need it: pip install 'mainstem[openai-agents]'")

from mainstem_tasks.engines.openai_agents.serving import serve_agent
from mainstem_tasks.engines.openai_agents.tools import as_tool

__all__ = ["as_tool", "serve_agent"]
