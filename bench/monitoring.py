"""A row about what grows with the fleet: control messages to each worker, events of each worker to Flower."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import uuid
from typing import Any

from celery import Celery
from celery.events.state import State
from harness import Bench, Row, cpu_s

MESSAGES = 1000


async def fleet(bench: Bench) -> Row:
    """What one worker pays for each control message, and a monitor for each event of any worker."""
    messages = bench.scaled(MESSAGES, 100)
    with bench.worker() as worker:
        app = Celery(broker=bench.server.url(1), set_as_current=False)
        try:
            before = cpu_s(worker)
            await asyncio.to_thread(_broadcast, app, messages)
            control = 1e6 * (cpu_s(worker) - before) / messages
        finally:
            app.close()
    event = await asyncio.to_thread(_monitor_us, messages * 20)
    return Row(
        name="fleet: control message per worker, event per monitor",
        figure=f"{control:.0f} µs, {event:.0f} µs",
        goal="reported: docs/scaling.md",
        data={"control_us": control, "event_us": event},
    )


def _broadcast(app: Celery, messages: int) -> None:
    """Revoke tasks that nobody has, as an abort does beside its letter; the ping says that all were heard."""
    for _ in range(messages):
        app.control.revoke(str(uuid.uuid4()), reply=False)
    app.control.ping(timeout=10, limit=1)


def _monitor_us(events: int) -> float:
    """A monitor's CPU per event: decoding, and Celery's own state, which Flower is built on."""
    state: Any = State(max_tasks_in_memory=10_000)
    kinds = ("task-received", "task-started", "task-succeeded")
    made = [
        json.dumps({
            "type": kinds[n % 3], "uuid": f"{n // 3:036d}", "hostname": "w@bench", "timestamp": n / 1000,
            "local_received": n / 1000, "utcoffset": 0, "pid": 1, "clock": n, "name": "mainstem.generate",
            "args": "()", "kwargs": "{'user': 'u', 'engine': 'demo', 'run_id': 'r'}", "runtime": 1.0,
        })
        for n in range(events)
    ]  # fmt: skip
    gc.collect()
    gc.freeze()  # what the bench imported is none of a monitor's, and costs at each collection
    try:
        begun = time.process_time()
        for line in made:
            state.event(json.loads(line))
        return 1e6 * (time.process_time() - begun) / events
    finally:
        gc.unfreeze()
