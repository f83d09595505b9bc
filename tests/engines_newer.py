"""Loaded by a worker with MAINSTEM_ENGINES: from then on it is of the next version."""

from __future__ import annotations

import newer

newer.become()
