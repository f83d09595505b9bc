"""Mainstem's client: start LLM runs, follow them from anywhere, get what they made.

`AsyncRuns` for asyncio, `Runs` for everything else. The gateway and the CLI live in subpackages, with extras
of their own.
"""

from mainstem_api.blocking import Runs
from mainstem_api.runs import AbortResult, AsyncRuns, RunEvent, StartResult
from mainstem_shared.listings import Page
from mainstem_shared.models import Run

__all__ = ["AbortResult", "AsyncRuns", "Page", "Run", "RunEvent", "Runs", "StartResult"]
