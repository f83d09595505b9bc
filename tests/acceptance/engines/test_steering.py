"""Saying something to a run while it is at work: over HTTP and Python, read once, in its place, or handed back."""

from __future__ import annotations

import asyncio
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.coordination import mailboxes
from support.clients.approvals import decision, paused
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async

SLOW = {"tokens": 100_000, "interval_ms": 10, "echo_input": True}


async def says(runs: Any, run_id: str, word: str) -> Any:
    async def said() -> Any:
        run = await runs.get(run_id)
        return run if word in run.text.split() else None

    return await wait_until_async(said, description=f"{word!r} in the text", timeout_s=30)


async def test_input_is_read_once_in_order_where_the_log_says(live):
    """Ten said at once, by HTTP: each is in the text and in the log once, in the order of the receipts."""
    live.worker()
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        async with gateway.client() as http, client(live) as runs:
            run_id = (await runs.start("t", "demo", SLOW)).run_id
            path = f"/v1/runs/{run_id}/input"
            await says(runs, run_id, "w3")
            replies = await asyncio.gather(
                *(http.post(path, json={"text": f"said{n}", "input_id": f"i{n}"}) for n in range(10))
            )
            assert [reply.status_code for reply in replies] == [202] * 10, replies[0].text
            again = await http.post(path, json={"text": "said3", "input_id": "i3"})
            assert again.json() == replies[3].json()
            receipts = sorted((reply.json() for reply in replies), key=lambda receipt: receipt["number"])
            for receipt in receipts:
                await says(runs, run_id, f"said{receipt['input_id'][1:]}")
            await runs.abort(run_id, wait=10)
            done = await runs.get(run_id)
            order = [receipt["input_id"] for receipt in receipts]
            assert [said["input_id"] for said in done.inputs] == order
            assert [word for word in done.text.split() if word.startswith("said")] == [
                f"said{input_id[1:]}" for input_id in order
            ]
            read = [e.data["input_id"] async for e in runs.events(run_id) if e.type == "input.accepted"]
            assert read == order
            # Its place: a part of its own follows it, which begins with the echo.
            first = done.inputs[0]
            assert done.content[first["part"]]["text"].split()[0] == f"said{order[0][1:]}"
            assert done.content[first["part"] - 1]["text"].split()[-1].startswith("w")
            late = await http.post(path, json={"text": "late"})
            assert (late.status_code, late.json()["code"]) == (409, "not_active")


async def test_what_nobody_read_is_handed_back(live):
    """An engine that reads nothing: the final event has all of it, and refuses what would be too much."""
    live.worker()
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        async with gateway.client() as http, client(live) as runs:
            run_id = (await runs.start("t", "demo", {**SLOW, "echo_input": False})).run_id
            await says(runs, run_id, "w3")
            path = f"/v1/runs/{run_id}/input"
            texts = [f"said{n}" for n in range(transitions.INPUTS_WAITING_LIMIT)]
            for text in texts:
                assert (await http.post(path, json={"text": text})).status_code == 202
            full = await http.post(path, json={"text": "x"})
            assert (full.status_code, full.json()["code"]) == (409, "queue_full")
            assert [said["state"] for said in (await runs.get(run_id)).inputs] == ["queued"] * len(texts)
            await runs.abort(run_id, wait=10)
            last = [event async for event in runs.events(run_id)][-1]
            assert [said["text"] for said in last.data["unread"]] == texts
            assert [said["state"] for said in (await runs.get(run_id)).inputs] == ["unread"] * len(texts)


async def test_a_steer_does_not_jump_over_an_approval(live):
    """Said before the pause and not read: it is read after the decision. Said meanwhile: refused, as paused."""
    live.worker(MAINSTEM_ENGINES="support.engines.engines", PYTHONPATH=str(TESTS))
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        async with gateway.client() as http, client(live) as runs:
            wanted = {"tokens": 4, "interval_ms": 0, "approve_at": [0], "echo_input": True}
            run = await paused(runs, (await runs.start("t", "demo", wanted)).run_id)
            path = f"/v1/runs/{run.run_id}/input"
            refused = await http.post(path, json={"text": "x"})
            assert (refused.status_code, refused.json()["code"]) == (409, "paused")
            await runs.resume(run.run_id, **decision(run, "approve"))
            assert (await runs.wait(run.run_id, timeout=20)).text == demo_text(4)
            run_id = (await runs.start("t", "listening")).run_id
            await runs.send_input(run_id, "later")
            run = await paused(runs, run_id)
            assert (run.text, [said["state"] for said in run.inputs]) == ("", ["queued"])
            await runs.resume(run_id, **decision(run, "approve"))
            assert (await runs.wait(run_id, timeout=20)).text == "approve, then later"


async def test_input_of_a_queued_run_waits_for_its_worker(live):
    """Accepted before any worker is up; the first word that the engine says comes after it."""
    async with client(live) as runs:
        run_id = (await runs.start("t", "demo", {**SLOW, "tokens": 3})).run_id
        await runs.send_input(run_id, "early")
        live.worker()
        assert (await runs.wait(run_id, timeout=30)).text == f"early {demo_text(3)}"


async def test_a_sweeper_repeats_an_inputs_lost_message(live, monkeypatch):
    """A crash between the record and the mail delays it, no more."""
    live.worker(MAINSTEM_SWEEP_S="0.3")

    async def lost(*_: Any) -> None:
        return None

    async with client(live) as runs:
        run_id = (await runs.start("t", "demo", SLOW)).run_id
        await says(runs, run_id, "w3")
        monkeypatch.setattr(mailboxes, "post", lost)
        await runs.send_input(run_id, "hello")
        monkeypatch.undo()
        await says(runs, run_id, "hello")
        await runs.abort(run_id, wait=10)


async def test_a_killed_worker_loses_nothing_that_was_said(live):
    """Said before, while and after its worker dies: each is heard once, in order; the rest is handed back."""
    settings = {"MAINSTEM_LEASE_S": "1.5", "MAINSTEM_SWEEP_S": "0.4"}
    own = {"MAINSTEM_ENGINES": "support.engines.engines", "PYTHONPATH": str(TESTS)}
    workers = live.workers("one", "two", **settings, **own)
    async with client(live) as runs:
        run_id = (await runs.start("t", "hearing", on_worker_lost="resume")).run_id
        run = await says(runs, run_id, "w12")
        for number in range(4):
            await runs.send_input(run_id, f"said{number}")
        await says(runs, run_id, "<said3>")
        next(child for child in workers if f"-{child.pid}-" in run.worker).sigkill()
        for number in range(4, 8):
            await runs.send_input(run_id, f"said{number}")
        await says(runs, run_id, "<said7>")
        await runs.send_input(run_id, "said8")
        done = (await runs.abort(run_id, wait=20)).run
        texts = [f"said{number}" for number in range(9)]
        assert [said["text"] for said in done.inputs] == texts
        read = [f"<{said['text']}>" for said in done.inputs if said["state"] == "read"]
        assert [word for word in done.text.split() if word.startswith("<")] == read
        assert len(read) >= 8
