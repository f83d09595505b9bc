"""Runs that an earlier version left unfinished are finished by a worker of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mainstem_shared.model.events import text_of
from mainstem_shared.store.connections import connect
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.models import recordings
from support.models.recordings import Recording
from support.paths import TESTS
from support.waiting import wait_until_async

QUICK = {
    "MAINSTEM_ENGINES": "support.engines.engines",
    "MAINSTEM_SWEEP_S": "0.3",
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_MAX_QUEUE_S": str(100 * 365 * 86_400),  # a recording waits until it is put back
    "PYTHONPATH": str(TESTS),
}


@pytest.mark.parametrize("version", recordings.versions(), ids=lambda path: path.name)
async def test_what_an_earlier_version_left_is_finished(live: Any, version: Path):
    """Queued, behind another, lost with a checkpoint, waiting for a human: each goes on where it was, to its end."""
    kept = {
        name: recordings.load(version / f"{name}.json")
        for name in ("queued", "waiting", "interrupted", "asking")
    }
    store = connect(live.store.url(0))
    for recording in kept.values():
        await recording.restore(store)
    await store.aclose()
    live.worker(**QUICK)
    async with client(live) as runs:
        await decide(runs, kept["asking"])
        for name, text in (
            ("queued", demo_text(3)),
            ("waiting", demo_text(4)),
            ("interrupted", demo_text(60)),
        ):
            run = await runs.wait(kept[name].run_id, timeout=60)
            assert (run.status, run.text) == ("succeeded", text), name
        asked = await runs.wait(kept["asking"].run_id, timeout=60)
        seen = [event async for event in runs.events(kept["interrupted"].run_id)]
    assert asked.status == "succeeded"
    assert asked.text.split()[:4] == demo_text(4).split()
    assert {"w11", "yes"} <= set(asked.text.split())
    (restarted,) = (event.data for event in seen if event.type == "run.restarted")
    assert text_of(restarted["content"]) == demo_text(20), "its last checkpoint was after the twentieth word"


async def decide(runs: Any, asking: Recording) -> None:
    """Approve what the earlier version asked, then answer what this one asks."""
    before = asking.run["action"]
    decisions = [{"call_id": call["call_id"], "type": "approve"} for call in before["calls"]]
    await runs.resume(asking.run_id, before["action_id"], decisions=decisions)

    async def asks() -> dict[str, Any] | None:
        action = (await runs.get(asking.run_id)).action
        return action if action and action["action_id"] != before["action_id"] else None

    action = await wait_until_async(asks, description="the question", timeout_s=40)
    answers = [{"question_id": question["question_id"], "text": "yes"} for question in action["questions"]]
    await runs.resume(asking.run_id, action["action_id"], answers=answers)
