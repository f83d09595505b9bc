"""The rows of the table, short ones first: what is measured, against what, and the goal.

Figures are of this machine; ratios are inside one run. Goals that are missed are reported, not hidden.
"""

from __future__ import annotations

from aborting import aborts, aborts_busy, aborts_by_mail
from agents import agents_langgraph, agents_pydantic_ai
from archiving import archiving
from growth import growth_of_deliveries, growth_of_memory, growth_of_starts, growth_of_tokens
from monitoring import fleet
from pausing import pausing
from reading import audience, delivery, fan_out, reconnects, reconnects_100k
from recovering import lost_workers
from serving import capacity
from spreading import spreading
from starting import first_event, memory, starts
from telling import telling
from writing import burst, per_token, per_token_economy, runs_1000, runs_4000

ROWS = (
    burst, per_token, per_token_economy, delivery, first_event, starts, reconnects, memory, fan_out, audience,
    aborts, aborts_by_mail, aborts_busy, lost_workers, fleet, runs_1000, runs_4000, capacity, pausing,
    telling, archiving, agents_langgraph, agents_pydantic_ai,
)  # fmt: skip
SLOW = frozenset({archiving, capacity, pausing, aborts_by_mail, lost_workers})
"""Rows that quick runs leave out: their clients or runs alone take longer than there is."""
FULL = (
    growth_of_memory,
    growth_of_deliveries,
    growth_of_tokens,
    growth_of_starts,
    reconnects_100k,
    spreading,
)
"""The rows of `make bench-full`."""
ALONE = frozenset({memory, per_token_economy, archiving, burst, pausing})
"""Rows that want a server of their own also in quick runs: they count it all, or have other settings."""
