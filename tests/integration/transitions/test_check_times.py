"""A verb lists the run as it changes it: whoever heals a crash after it looks at the right run, soon."""

from __future__ import annotations

from mainstem_shared import transitions
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import check_times
from support.models import listed
from support.models import verb_calls as v

LATER_MS = 600_000


async def later(store: Store, *run_ids: str) -> None:
    """No sweeper would look at them for long."""
    await listed.put(store.client, "active", dict.fromkeys(run_ids, now_ms() + LATER_MS))


async def within_ms(store: Store, run_id: str) -> float:
    """In how many milliseconds a sweeper looks at a run."""
    return (await listed.scores(store.client, "active"))[run_id] - now_ms()


async def test_a_stop_is_checked_soon(store: Store):
    control = await v.running(store)
    await later(store, control.run_id)
    await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT)
    assert await within_ms(store, control.run_id) <= check_times.STOP_MS


async def test_an_input_is_checked_soon(store: Store):
    control = await v.running(store)
    await later(store, control.run_id)
    await transitions.steer(store, control.run_id, input_id="i", text="t", by=None)
    assert await within_ms(store, control.run_id) <= check_times.STEER_MS


async def test_a_run_that_is_to_be_replaced_is_checked_soon(store: Store):
    first, second, third = (v.new_run("t") for _ in range(3))
    await v.start(store, first)
    await v.start(store, second, if_active="replace")
    await later(store, first, second)
    await v.start(store, third, if_active="replace")
    assert await within_ms(store, second) <= check_times.STOP_MS, "it waits, and is replaced in its turn"
    assert await within_ms(store, first) <= check_times.STOP_MS


async def test_a_handover_is_checked_soon(store: Store):
    control = await v.running(store)
    await later(store, control.run_id)
    await v.handover(store, control)
    assert await within_ms(store, control.run_id) <= check_times.MESSAGE_MS


async def test_an_end_leaves_the_unfinished_and_has_the_next_run_checked(store: Store):
    first, second = (v.new_run("t") for _ in range(2))
    await v.start(store, first)
    await v.start(store, second, if_active="enqueue")
    await later(store, first, second)
    await v.finish(store, transitions.Control(run_id=first, epoch=1, owner=""), top=Cursor(1, 0))
    assert set(await listed.scores(store.client, "active")) == {second}
    assert await within_ms(store, second) <= check_times.MESSAGE_MS
    assert set(await listed.scores(store.client, "compact")) == {first}
    assert set(await listed.scores(store.client, "recent")) == {first, second}
    await transitions.compact(store, first)
    assert await listed.scores(store.client, "compact") == {}
    await transitions.forget(store, first)
    assert set(await listed.scores(store.client, "recent")) == {second}


async def test_a_check_that_is_due_sooner_stays(store: Store):
    control = await v.running(store)
    await store.client.zadd(keys.run(control.run_id).active, {control.run_id: 1})
    await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT)
    assert await listed.scores(store.client, "active") == {control.run_id: 1}
