"""Runs engines in tests: without broker, store or worker, and against providers as they really are.

`result = await run_engine(engine, {...})` is an engine's run in memory. `ProviderServer` answers on a raw
socket what a test scripts, `strict` lets it refuse what real ones refuse of a history; `dialects.DIALECTS`
are the answers of real providers, each with its outcome.
"""

from __future__ import annotations

from mainstem_tasks.testing.engine_runs import SENT, EngineRun, MemoryChannel, run_engine
from mainstem_tasks.testing.histories import signature, strict
from mainstem_tasks.testing.provider_server import HOLD, RESET, ProviderServer, Reply, Request

__all__ = [
    "HOLD",
    "RESET",
    "SENT",
    "EngineRun",
    "MemoryChannel",
    "ProviderServer",
    "Reply",
    "Request",
    "run_engine",
    "signature",
    "strict",
]
