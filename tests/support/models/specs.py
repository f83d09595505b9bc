"""A run's spec for tests to which most of it does not matter."""

from __future__ import annotations

from typing import Any

from mainstem_shared.model.runs import Spec


def spec(run_id: str = "r", **fields: Any) -> Spec:
    """The spec of a run of `u`'s on thread `t`; `fields` say what is different."""
    usual: dict[str, Any] = {
        "thread_id": "t",
        "user_id": "u",
        "tenant": "default",
        "engine": "demo",
        "metadata": {},
        "created_ms": 1,
        "max_duration_s": 60,
    }
    return Spec(run_id=run_id, **{**usual, **fields})
