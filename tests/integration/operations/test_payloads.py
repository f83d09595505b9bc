"""What passes through unchanged, and what does not pass at all: payloads of events, inputs of engines."""

from __future__ import annotations

import asyncio

from mainstem_shared import transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.eventlog.reading.subscriptions import End
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Spec
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.clients.following import follow, reached
from support.models.logs import TTL_MS, RunLog

AWKWARD = {
    "empty": [[], {}, "", [[]], {"": {}}],
    "numbers": [0, -0.0, 1.0, 1e-7, 1e22, 0.1, 5e-324, 1.7976931348623157e308, 2**53 + 1, -(2**63)],
    "text": ["\x00\x1f\x7f", '"\\/', "é😀", "</script>", "\r\n: data"],
    "null": None,
    "deep": {"a": [{"b": [None, True, False]}]},
}


async def test_payloads_reach_readers_byte_for_byte(store: Store, tailer: Tailer):
    """Empty arrays, floats, large integers, control characters: as written, live, from the log and in a state."""
    log = await RunLog.start(store)
    await log.claim()
    call = {"step_id": "c", "kind": "tool_call", "name": "f", "arguments": AWKWARD, "at": 1}
    live, late = Reader(log), Reader(log)
    async with asyncio.TaskGroup() as group:
        group.create_task(follow(tailer, live))
        await reached(live, log.top)
        await log.append(
            (Type.CUSTOM, {"name": "n", "data": AWKWARD}),
            (Type.STEP_STARTED, call),
            (Type.STEP_COMPLETED, {"step_id": "c", "state": "completed", "result": AWKWARD, "at": 2}),
        )
        await reached(live, log.top)
        await log.snapshot()
        await log.finish()
    assert await follow(tailer, late) is End.FINISHED
    live.check_end()
    late.check_end()
    assert live._data == late._data
    assert repr(jsontext.loads(live._data[2])["data"]) == repr(AWKWARD)
    for whole in (log.entries[-1].payload(), (await run_states.get_run(store, log.run_id)).model_dump()):
        (part,) = whole["content"]
        assert repr((part["arguments"], part["result"])) == repr((AWKWARD, AWKWARD))


async def test_what_the_engine_was_given_is_in_no_event(store: Store):
    """Prompts and files of the input stay in the record: events hold what the engine said, and nothing else."""
    secret = "the prompt of the run"
    spec = Spec(
        run_id=ids.run_id("default", "t", ids.uuid7()),
        thread_id="t",
        user_id="local",
        tenant="default",
        engine="demo",
        metadata={"note": secret},
        created_ms=1,
        max_duration_s=60,
    )
    run_input = jsontext.dumps({"messages": [secret]})
    await transitions.start(
        store,
        spec,
        run_input,
        nonce="n",
        if_active="reject",
        live_ttl_ms=TTL_MS,
        thread_ttl_ms=TTL_MS,
    )
    log = RunLog(store, spec.run_id)
    await log.learn()
    await log.claim()
    await log.say(2)
    await log.snapshot()
    await log.handover()
    await log.claim()
    await log.finish()
    assert await store.client.hget(keys.run(spec.run_id).record, "input") == run_input
    assert len(log.entries) == 7
    assert [entry.type for entry in log.entries if secret.encode() in entry.data] == []
