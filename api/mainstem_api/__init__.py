"""Exports Mainstem's client: start LLM runs, follow them from anywhere, read their content.

`AsyncRuns` for asyncio, `Runs` for everything else. The gateway and the CLI live in subpackages, with extras
of their own.
"""

from mainstem_api.client.async_runs import AbortResult, AsyncRuns, RunEvent, StartResult
from mainstem_api.client.runs import Runs
from mainstem_shared.model.runs import Run
from mainstem_shared.operations.queries.listings import Page

__all__ = ["AbortResult", "AsyncRuns", "Page", "Run", "RunEvent", "Runs", "StartResult"]
