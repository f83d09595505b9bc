"""The rows of the table, in its order: what is measured, against what, and the goal.

Figures are of this machine; ratios are inside one run. Goals that are missed are reported, not hidden.
"""

from __future__ import annotations

from growth import growth
from reading import audience, delivery, fan_out, reconnects, reconnects_100k
from starting import aborts, aborts_busy, first_event, memory, starts

from writing import burst, per_token, per_token_economy, runs_1000, runs_4000

ROWS = (
    burst, runs_1000, runs_4000, delivery, first_event, starts, reconnects, memory,
    per_token, per_token_economy, fan_out, audience, aborts, aborts_busy,
)  # fmt: skip
FULL = (reconnects_100k, growth)
"""Beside the others in `make bench-full`."""
ALONE = frozenset({memory, per_token_economy, burst})
"""Rows that want a server of their own also in quick runs: they count it all, or have other settings."""
