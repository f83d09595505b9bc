"""Promises of the contract where requests pass: a real gateway before a worker's real runtime in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.model.runs import Reason, ms_of
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.sdk.context import RunContext
from support.processes.gateways import GatewayThread, open_stream
from support.processes.in_process_worker import working

GUARDS = "support.deployment_guards.polite, mainstem_shared.guards.plain"


@engine("asking")
async def asking(run: RunContext[dict[str, Any]]) -> None:
    """Ask a human once, about a call or (`question`) for a word, in the deployment's own window."""
    if run.segment == 1:
        if "question" in run.input:
            await run.ask([{"question_id": "q", "text": "which?"}])
        await run.request_approval([{"call_id": "c", "name": "f", "arguments": {"n": 1}}])
    await run.text("went on")


@engine("busy")
async def busy(run: RunContext[dict[str, Any]]) -> None:
    """Speak now and then, for longer than an engine may be silent."""
    for n in range(run.input["words"]):
        await run.text(f"w{n} ")
        await asyncio.sleep(0.1)


async def start(http: httpx.AsyncClient, thread: str, name: str, **given: Any) -> httpx.Response:
    return await http.post(f"/v1/threads/{thread}/runs", json={"engine": name, "input": given})


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


async def test_a_deployments_guard_is_asked_about_each_start_and_resume(settings: Settings):
    """What it refuses neither starts a run nor decides about one; what it lets pass does."""
    assert settings.redis_url is not None
    assert settings.broker_url is not None
    addresses = (settings.redis_url.get_secret_value(), settings.broker_url.get_secret_value())
    with GatewayThread(*addresses, input_guards=GUARDS) as gateway:
        async with gateway.client() as http, working(settings) as here:
            assert refusal(await start(http, "t", "asking", said="damn")) == (422, "invalid_request")
            assert (await http.get("/v1/threads/t/runs")).json()["runs"] == []
            run_id = (await start(http, "t", "asking", said="please")).json()["run_id"]
            assert await segments.execute(here, run_id, task_id="a") == segments.PAUSED
            action = (await http.get(f"/v1/runs/{run_id}")).json()["action"]
            decided = {"call_id": "c", "type": "reject"}
            body = {"action_id": action["action_id"], "decisions": [{**decided, "reason": "damn"}]}
            assert refusal(await http.post(f"/v1/runs/{run_id}/resume", json=body)) == (
                422,
                "invalid_request",
            )
            assert (await http.get(f"/v1/runs/{run_id}")).json()["status"] == "requires_action"
            body["decisions"] = [{**decided, "reason": "no, thanks"}]
            assert (await http.post(f"/v1/runs/{run_id}/resume", json=body)).status_code == 202


async def test_a_resume_that_comes_to_nothing_gives_its_slot_back(settings: Settings, store: Store):
    """It took one for the run; the run is being stopped, so that it is refused and nothing counts."""
    assert settings.redis_url is not None
    assert settings.broker_url is not None
    addresses = (settings.redis_url.get_secret_value(), settings.broker_url.get_secret_value())
    limited = settings.model_copy(update={"max_active_runs_per_user": 1})
    with GatewayThread(*addresses, max_active_runs_per_user=1) as gateway:
        async with gateway.client() as http, working(limited) as here:
            run_id = (await start(http, "t", "asking")).json()["run_id"]
            assert await segments.execute(here, run_id, task_id="a") == segments.PAUSED
            slots = keys.user_slots("default", "local")
            assert await store.command("ZCARD", slots) == 0
            action = (await http.get(f"/v1/runs/{run_id}")).json()["action"]
            # Somebody asked to stop it, and died before it was ended.
            await transitions.stop(store, run_id, reason=Reason.USER_ABORT)
            body = {"action_id": action["action_id"], "decisions": [{"call_id": "c", "type": "approve"}]}
            assert refusal(await http.post(f"/v1/runs/{run_id}/resume", json=body)) == (409, "not_paused")
            assert await store.command("ZCARD", slots) == 0


@pytest.mark.parametrize("asked", [{}, {"question": True}], ids=["approval", "question"])
async def test_a_deployments_window_is_its_actions(
    http: httpx.AsyncClient, settings: Settings, asked: dict[str, Any]
):
    """An engine that names none of its own asks for as long as MAINSTEM_APPROVAL_WINDOW_S says."""
    window_s = 1234
    async with working(settings.model_copy(update={"approval_window_s": window_s})) as here:
        run_id = (await start(http, "t", "asking", **asked)).json()["run_id"]
        before = now_ms()
        assert await segments.execute(here, run_id, task_id="a") == segments.PAUSED
        after = now_ms()
    expires = ms_of((await http.get(f"/v1/runs/{run_id}")).json()["action"]["expires_at"])
    assert before <= expires - window_s * 1000 <= after


async def test_an_engine_that_speaks_now_and_then_is_not_silent(http: httpx.AsyncClient, settings: Settings):
    """The idle limit counts silence, not age: a run of several limits' length ends by itself."""
    async with working(settings.model_copy(update={"idle_timeout_s": 1.0})) as here:
        run_id = (await start(http, "t", "busy", words=30)).json()["run_id"]
        assert await segments.execute(here, run_id, task_id="a") == "completed"
    assert (await http.get(f"/v1/runs/{run_id}")).json()["text"].split() == [f"w{n}" for n in range(30)]


async def test_what_a_worker_was_given_is_in_no_event(
    http: httpx.AsyncClient, settings: Settings, store: Store, runs: AsyncRuns
):
    """A run's input and metadata stay in its record: no stream, log entry or snapshot has them, at any time."""
    secret = "the prompt of the run"
    async with working(settings) as here:
        body = {"engine": "asking", "input": {"prompt": secret}, "metadata": {"note": secret}}
        run_id = (await http.post("/v1/threads/t/runs", json=body)).json()["run_id"]
        assert await segments.execute(here, run_id, task_id="a") == segments.PAUSED
        k = keys.run(run_id)
        kept = [await store.command("XRANGE", k.log, "-", "+"), await store.command("HGETALL", k.snapshot)]
        action = (await http.get(f"/v1/runs/{run_id}")).json()["action"]
        await runs.resume(run_id, action["action_id"], decisions=[{"call_id": "c", "type": "approve"}])
        assert await segments.execute(here, run_id, task_id="b") == "completed"
    async with open_stream(http, run_id) as stream:
        told = [event async for event in stream]
    assert told[-1].type == "run.finished"
    assert secret not in repr(kept)
    assert secret not in repr(told)
    # It is where it belongs.
    assert secret.encode() in await store.command("HGET", k.record, "input")
