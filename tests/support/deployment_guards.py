"""A deployment's own guard, for MAINSTEM_INPUT_GUARDS of gateways and workers under test."""

from __future__ import annotations

from mainstem_shared.guards import Said


def polite(said: Said) -> str | None:
    """Refuse one word, wherever it stands in what is said."""
    return "mind your language" if "damn" in str(said.value) else None
