"""Serves graphs of LangGraph as engines: `serve_graph("support", build)`. Needs the extra `langgraph`."""

from __future__ import annotations

import importlib.util

from mainstem_tasks.sdk.registry import MissingExtraError

if importlib.util.find_spec("langgraph") is None:
    raise MissingExtraError("graphs of LangGraph need it: pip install 'mainstem[langgraph]'")

from mainstem_tasks.engines.langgraph.saver import ThreadSaver
from mainstem_tasks.engines.langgraph.serving import serve_graph

__all__ = ["ThreadSaver", "serve_graph"]
