"""Serves agents of Pydantic AI as engines: `serve_agent("helper", agent)`. Needs the extra `pydantic-ai`."""

from __future__ import annotations

import importlib.util

from mainstem_tasks.sdk.registry import MissingExtraError

if importlib.util.find_spec("pydantic_ai") is None:
    raise MissingExtraError("agents of Pydantic AI need it: pip install 'mainstem[pydantic-ai]'")

from mainstem_tasks.engines.pydantic_ai.delegating import delegate
from mainstem_tasks.engines.pydantic_ai.serving import serve_agent

__all__ = ["delegate", "serve_agent"]
