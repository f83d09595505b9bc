"""What a test needs from the machine: missing, it skips on a developer's machine and fails in CI."""

from __future__ import annotations

import os

import pytest

IN_CI = os.environ.get("MAINSTEM_CI") == "1"


def require(condition: object, reason: str) -> None:
    """Go on only if `condition` holds. Call it from a fixture or a test, never at import."""
    if condition:
        return
    if IN_CI:
        pytest.fail(f"required in CI: {reason}", pytrace=False)
    pytest.skip(reason)
