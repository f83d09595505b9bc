"""What the broker does with messages of runs that are longer than it keeps messages invisible."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.clients.clients import client
from support.engines.demowords import demo_text
from support.processes.projects import Project

VISIBILITY_S = 3
FAR = 20  # events: the run is well under way


async def test_a_run_longer_than_the_visibility_timeout_runs_once(live: Any, tmp_path: Path):
    """Visible again after 3 s, with late acks for everything else: a run of 8 s is claimed once, and its text is exact."""
    options = {"visibility_timeout": VISIBILITY_S, "unacked_restore_limit": None}
    project = Project(live, tmp_path, broker_transport_options=options, task_acks_late=True)
    for name in ("one", "two"):
        project.worker(name=name)
    async with client(live) as runs:
        started = await runs.start("thread", "demo", {"tokens": 160, "interval_ms": 50})

        with live.broker.client(1) as broker:
            seen: list[str] = []
            async with asyncio.timeout(60):
                async for event in runs.events(started.run_id):
                    seen.append(event.type)
                    if len(seen) == FAR:
                        assert not broker.hlen("unacked"), "the message is acknowledged as the run begins"
        run = await runs.get(started.run_id)
    assert run.finished_at is not None
    assert run.started_at is not None
    assert (run.finished_at - run.started_at).total_seconds() > 2 * VISIBILITY_S
    assert (run.status, run.text) == ("succeeded", demo_text(160))
    assert (seen.count("run.started"), seen.count("run.finished"), "snapshot" in seen) == (1, 1, False)
