"""Turns a worker into one of the next version, loaded with MAINSTEM_ENGINES."""

from __future__ import annotations

from support.engines import newer

newer.become()
