"""Runs that wait for a human: on real workers, through restarts, raced, expired."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from celery import Celery

from mainstem_api import Run
from mainstem_shared import errors
from mainstem_shared.store import keys
from support.clients.approvals import decision, paused
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.fakes.openai_server import Events, OpenAIServer, answer, call_chunk, chunk
from support.paths import TESTS
from support.waiting import wait_until_async


async def test_a_paused_run_survives_everything_and_goes_on_elsewhere(fragile):
    """Worker killed, store restarted: resumed on another worker, the text is exact and the log has no gap."""
    first = fragile.worker("first", MAINSTEM_LEASE_S="2", MAINSTEM_SWEEP_S="0.5")
    wanted = {"tokens": 30, "interval_ms": 5, "approve_at": [10, 20], "ask_at": [15]}
    async with client(fragile) as runs:
        started = await runs.start("thread", "demo", wanted)
        run = await paused(runs, started.run_id)
        assert run.text == demo_text(10)
        assert run.worker is None
        first.sigkill()
    fragile.store.restart()
    fragile.worker("second", MAINSTEM_LEASE_S="2", MAINSTEM_SWEEP_S="0.5")
    async with client(fragile) as runs:
        again = await runs.get(started.run_id)
        assert (again.status, again.action, again.text) == ("requires_action", run.action, run.text)
        await runs.resume(started.run_id, **decision(run, "approve"))
        asked = await paused(runs, started.run_id, after=run.action["action_id"])
        assert asked.text == demo_text(15)
        (question,) = asked.action["questions"]
        answers = [{"question_id": question["question_id"], "text": "yes"}]
        await runs.resume(started.run_id, asked.action["action_id"], answers=answers)
        last = await paused(runs, started.run_id, after=asked.action["action_id"])
        await runs.resume(started.run_id, **decision(last, "edit", arguments={"at": 99}))
        done = await runs.wait(started.run_id, timeout=20)
        words = [f"w{k}" for k in range(30)]
        words[20] = "w99"
        assert done.text == " ".join([*words[:15], "yes", *words[15:]])
        assert done.status == "succeeded"
        assert done.action is None
        seen = [event async for event in runs.events(started.run_id)]
        kinds = Counter(event.type for event in seen)
        assert (kinds["approval.required"], kinds["approval.resolved"], kinds["run.resumed"]) == (3, 3, 3)
        assert len({event.cursor for event in seen}) == len(seen)
        streamed = "".join(e.data["text"] for e in seen if e.type == "message.delta")
        assert streamed == done.text
        # What was decided stays answered, and cannot be decided otherwise, after the end too.
        assert (await runs.resume(started.run_id, **decision(run, "approve"))).status == "succeeded"
        with pytest.raises(errors.DecisionConflict):
            await runs.resume(started.run_id, **decision(run, "reject"))


@pytest.mark.parametrize(
    ("kind", "fields", "piece"),
    [
        ("approve", {}, "w2"),
        ("reject", {"reason": "no"}, "[rejected:2]"),
        ("edit", {"arguments": {"at": 7}}, "w7"),
        ("respond", {"text": "my own"}, "my own"),
    ],
)
async def test_each_decision_shows_in_the_text(
    stage, kind: str, fields: dict[str, Any], piece: str, thread: str
):
    """The demo engine puts into the word's place what was decided."""
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})
        run = await paused(runs, started.run_id)
        await runs.resume(started.run_id, **decision(run, kind, **fields))
        done = await runs.wait(started.run_id, timeout=20)
        assert done.text == f"w0 w1 {piece} w3"
        (call,) = [part for part in done.content if part["type"] == "tool_call"]
        assert call["state"] == ("failed" if kind == "reject" else "completed")


async def test_identical_resumes_all_succeed_with_one_continuation(stage, thread: str):
    """Fifty at once: fifty successes, one `approval.resolved`, one `run.resumed`."""
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})
        run = await paused(runs, started.run_id)
        answers = await asyncio.gather(
            *(runs.resume(started.run_id, **decision(run, "approve")) for _ in range(50))
        )
        assert len(answers) == 50
        await runs.wait(started.run_id, timeout=20)
        kinds = Counter([event.type async for event in runs.events(started.run_id)])
        assert (kinds["approval.resolved"], kinds["run.resumed"]) == (1, 1)


async def test_of_differing_resumes_one_wins(stage, thread: str):
    """Fifty that differ: one success, 49 conflicts, and the text is the winner's."""
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 3, "interval_ms": 0, "approve_at": [2]})
        run = await paused(runs, started.run_id)
        answers = await asyncio.gather(
            *(runs.resume(started.run_id, **decision(run, "respond", text=f"r{n}")) for n in range(50)),
            return_exceptions=True,
        )
        won = [n for n, answer in enumerate(answers) if isinstance(answer, Run)]
        assert len(won) == 1
        assert sum(isinstance(answer, errors.DecisionConflict) for answer in answers) == 49
        done = await runs.wait(started.run_id, timeout=20)
        assert done.text == f"w0 w1 r{won[0]}"


async def test_a_resume_that_comes_too_late_expires_the_action_itself(live):
    """Without any sweep the late resume is told so, and ends the run."""
    live.worker(MAINSTEM_APPROVAL_WINDOW_S="0.2", MAINSTEM_SWEEP_S="3600")
    async with client(live) as runs:
        started = await runs.start("t", "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})
        run = await paused(runs, started.run_id)
        assert run.action is not None

        async def refused() -> bool:
            try:
                await runs.resume(started.run_id, **decision(run, "edit", arguments={"at": "nonsense"}))
            except errors.InvalidDecision:
                return False
            except errors.ActionExpired:
                return True
            raise AssertionError

        await wait_until_async(refused, description="the action to expire", timeout_s=10)
        assert (await runs.get(started.run_id)).reason == "approval_expired"


async def test_a_paused_run_can_be_aborted(stage, thread: str):
    """Nobody runs it: the abort ends it at once, and a later resume is refused."""
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})
        run = await paused(runs, started.run_id)
        aborted = await runs.abort(started.run_id)
        assert (aborted.outcome, aborted.won_from) == ("aborted", "requires_action")
        assert aborted.run.content[-1]["state"] == "aborted"
        with pytest.raises(errors.NotPaused):
            await runs.resume(started.run_id, **decision(run, "approve"))
        with stage.store.client() as store:
            assert not store.exists(keys.run(started.run_id).checkpoint)


async def test_celery_alone_can_resume(stage, thread: str):
    """`send_task("mainstem.resume")` decides; for another user the run is not there."""
    app = Celery(broker=stage.broker.url(1), set_as_current=False)
    async with client(stage) as runs:
        started = await runs.start(
            thread, "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]}, user_id="ann"
        )
        run = await paused(runs, started.run_id)
        mine = {"run_id": started.run_id, **decision(run, "approve")}
        app.send_task(
            "mainstem.resume", kwargs={**decision(run, "reject"), "run_id": started.run_id, "user_id": "eve"}
        )
        app.send_task("mainstem.resume", kwargs={**mine, "user_id": "ann"})
        done = await runs.wait(started.run_id, timeout=20)
        assert done.text == demo_text(4)
    app.close()


async def test_no_broker_delays_a_continuation_only(apart):
    """A resume while the broker is down is accepted; the outbox delivers it afterwards."""
    apart.worker(MAINSTEM_SWEEP_S="0.5")
    async with client(apart) as runs:
        started = await runs.start("t", "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})
        run = await paused(runs, started.run_id)
        apart.broker.sigkill()
        assert (await runs.resume(started.run_id, **decision(run, "approve"))).status == "queued"
        apart.broker.start()
        assert (await runs.wait(started.run_id, timeout=40)).text == demo_text(4)


async def test_a_model_calls_tools_that_a_human_decides_about(live):
    """A real worker, a real server: parallel calls are one action, and the model reads what came of each."""
    root = TESTS
    with OpenAIServer() as provider:
        arguments = [json.dumps({"amount": n, "to": "ann"}) for n in (1, 2, 3)]
        calls = [call_chunk(n, text, call_id=f"c{n}", name="transfer") for n, text in enumerate(arguments)]
        provider.reply(Events(chunks=[*calls, chunk(finish="tool_calls")]))
        provider.reply(answer("All ", "done."))
        live.worker(
            MAINSTEM_ENGINES="support.engines.toolshed",
            PYTHONPATH=str(root),
            MAINSTEM_OPENAI_BASE_URL=provider.url,
            MAINSTEM_OPENAI_API_KEY="sk-test",
            MAINSTEM_OPENAI_MODEL="m",
        )
        async with client(live) as runs:
            wanted = {"messages": [{"role": "user", "content": "Pay."}], "use_tools": ["transfer"]}
            started = await runs.start("t", "openai", wanted)
            run = await paused(runs, started.run_id)
            assert run.action is not None
            assert [call["call_id"] for call in run.action["calls"]] == ["c0", "c1", "c2"]
            decided = [
                {"call_id": "c0", "type": "approve"},
                {"call_id": "c1", "type": "edit", "arguments": {"amount": 20, "to": "bob"}},
                {"call_id": "c2", "type": "reject", "reason": "no"},
            ]
            bad = [*decided[:1], {**decided[1], "arguments": {"amount": "all"}}, decided[2]]
            with pytest.raises(errors.InvalidDecision):
                await runs.resume(started.run_id, run.action["action_id"], decisions=bad)
            await runs.resume(started.run_id, run.action["action_id"], decisions=decided)
            done = await runs.wait(started.run_id, timeout=20)
        assert (done.status, done.text) == ("succeeded", "All done.")
        called, *results = provider.requests[1].body["messages"][1:]
        assert [call["id"] for call in called["tool_calls"]] == ["c0", "c1", "c2"]
        assert [result["tool_call_id"] for result in results] == ["c0", "c1", "c2"]
        said = [json.loads(result["content"]) for result in results]
        assert [item.get("sent") for item in said] == [1, 20, None]
        assert "rejected" in said[2]["error"]
