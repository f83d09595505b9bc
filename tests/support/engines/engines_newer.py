"""Loaded by a worker with MAINSTEM_ENGINES: from then on it is of the next version."""

from __future__ import annotations

from support.engines import newer

newer.become()
