"""The AI SDK's stream, byte by byte: what each recorded log becomes. Real clients read it in `stock_clients`."""

from __future__ import annotations

import pytest

import goldens
from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream


@pytest.mark.parametrize("log", goldens.LOGS)
def test_the_stream_of_a_recorded_log_is_the_golden_one(log: str):
    """Each log from its start, to its end or to the pause."""
    goldens.check(
        "ai-sdk", log, goldens.translate(UIMessageStream(run_id="run", message_id="run"), goldens.frames(log))
    )
