"""Resuming over HTTP: the guard ladder's statuses and codes, tampering, and what monitors see."""

from __future__ import annotations

import copy
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from celery import Celery

from mainstem_shared.model import actions
from mainstem_shared.store import keys
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.processes.gateways import GatewayThread
from support.waiting import wait_until, wait_until_async


@pytest.fixture
async def http(live: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway beside the live system's workers."""
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        async with gateway.client() as made:
            yield made


async def pause(http: httpx.AsyncClient, thread: str = "t", **wanted: Any) -> dict[str, Any]:
    """Start a demo run and wait until it is paused."""
    body = {"engine": "demo", "input": {"tokens": 5, "interval_ms": 0, "approve_at": [2], **wanted}}
    started = await http.post(f"/v1/threads/{thread}/runs", json=body)
    assert started.status_code == 202, started.text
    run_id = started.json()["run_id"]

    async def waits() -> dict[str, Any] | None:
        run = (await http.get(f"/v1/runs/{run_id}")).json()
        return run if run["status"] == "requires_action" else None

    return await wait_until_async(waits, description="the run to pause", timeout_s=30)


async def ended(http: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        run = (await http.get(f"/v1/runs/{run_id}")).json()
        return run if run["finished_at"] else None

    return await wait_until_async(over, description="the run to end", timeout_s=30)


def approval(run: dict[str, Any], **fields: Any) -> dict[str, Any]:
    decided = {"call_id": "demo_tool_2", "type": "approve", **fields}
    return {"action_id": run["action"]["action_id"], "decisions": [decided]}


async def test_every_step_of_the_guard_ladder_has_its_code(live, http: httpx.AsyncClient):
    """Refusals change nothing: after all of them the run is as it was, and can be approved."""
    live.worker()
    run = await pause(http)
    path = f"/v1/runs/{run['run_id']}/resume"
    action_id = run["action"]["action_id"]
    refused = [
        (400, "undecided_call", {"action_id": action_id}),
        (400, "undecided_call", {"action_id": action_id, "decisions": []}),
        (400, "invalid_decision", approval(run, type="perhaps")),
        (400, "invalid_decision", approval(run, type="edit")),
        (400, "invalid_decision", approval(run, type="edit", arguments="at 3")),
        (400, "invalid_decision", approval(run, type="edit", arguments={"at": -1})),
        (400, "invalid_decision", approval(run, type="respond", text="  ")),
        (409, "stale_action", {**approval(run), "action_id": "act_other"}),
        (422, "invalid_request", {"decisions": []}),
        (422, "invalid_request", {**approval(run), "answers": []}),
        (422, "invalid_request", {**approval(run), "decisions": "approve"}),
    ]
    for status, code, body in refused:
        reply = await http.post(path, json=body)
        assert (reply.status_code, reply.json()["code"]) == (status, code), body
        assert reply.headers["content-type"] == "application/problem+json"
    assert (await http.get(f"/v1/runs/{run['run_id']}")).json() == run
    another = run["run_id"][:-1] + ("i" if run["run_id"].endswith("a") else "a")
    for nowhere in ("/v1/runs/nosuch/resume", f"/v1/runs/{another}/resume"):
        assert (await http.post(nowhere, json=approval(run))).status_code == 404
    accepted = await http.post(path, json=approval(run))
    assert (accepted.status_code, accepted.json()["run_id"]) == (202, run["run_id"])
    assert (await ended(http, run["run_id"]))["text"] == demo_text(5)
    assert (await http.post(path, json=approval(run))).status_code == 202
    conflict = await http.post(path, json=approval(run, type="reject"))
    assert (conflict.status_code, conflict.json()["code"]) == (409, "decision_conflict")
    other = await http.post(path, json={**approval(run), "action_id": "act_other"})
    assert (other.status_code, other.json()["code"]) == (409, "not_paused")


async def test_a_call_may_forbid_a_decision(live, http: httpx.AsyncClient):
    """403 decision_not_allowed is for nothing else."""
    live.worker()
    run = await pause(http)
    with live.store.client() as store:
        record = keys.run(run["run_id"]).record
        action = actions.Action.model_validate_json(store.hget(record, "action"))
        call = action.calls[0].model_copy(update={"allowed_decisions": ("reject",)})
        store.hset(record, "action", action.model_copy(update={"calls": (call,)}).model_dump_json())
    reply = await http.post(f"/v1/runs/{run['run_id']}/resume", json=approval(run))
    assert (reply.status_code, reply.json()["code"]) == (403, "decision_not_allowed")


async def test_an_expired_action_is_gone(live, http: httpx.AsyncClient):
    """410 action_expired, before and after the run ended for it."""
    live.worker(MAINSTEM_APPROVAL_WINDOW_S="4", MAINSTEM_SWEEP_S="0.3")
    run = await pause(http)
    assert (await ended(http, run["run_id"]))["reason"] == "approval_expired"
    reply = await http.post(f"/v1/runs/{run['run_id']}/resume", json=approval(run))
    assert (reply.status_code, reply.json()["code"]) == (410, "action_expired")


TAMPERED: list[dict[str, Any]] = [
    {"engine": "openai"},
    {"input": {"tokens": 99}},
    {"user_id": "eve"},
    {"tenant": "other"},
    {"metadata": {"x": 1}},
    {"calls": [{"call_id": "demo_tool_2", "name": "rm", "arguments": {"at": 9}}]},
    {"state": "x"},
    {"expires_at": "2099-01-01T00:00:00Z"},
    {"fingerprint": "x"},
]


async def test_nothing_but_decisions_has_an_effect(live, http: httpx.AsyncClient):
    """Engine, input, user, tools and arguments come from the record, whatever a client sends beside."""
    live.worker()
    run = await pause(http)
    path = f"/v1/runs/{run['run_id']}/resume"
    for extra in TAMPERED:
        assert (await http.post(path, json={**approval(run), **extra})).status_code == 422, extra
    for extra in (*TAMPERED, {"name": "rm"}, {"allowed_decisions": ["approve"]}):
        body = copy.deepcopy(approval(run))
        body["decisions"][0] |= extra
        assert (await http.post(path, json=body)).status_code == 422, extra
    swapped = await http.post(path, json=approval(run, arguments={"at": 9}))
    assert (swapped.status_code, swapped.json()["code"]) == (400, "invalid_decision")
    unasked = approval(run)
    unasked["decisions"].append({"call_id": "another", "type": "approve"})
    assert (await http.post(path, json=unasked)).json()["code"] == "invalid_decision"
    twice = approval(run)
    twice["decisions"].append({"call_id": "demo_tool_2", "type": "reject"})
    assert (await http.post(path, json=twice)).json()["code"] == "invalid_decision"
    other = await pause(http, "other")
    foreign = {**approval(run), "action_id": other["action"]["action_id"]}
    assert (await http.post(path, json=foreign)).json()["code"] == "stale_action"
    app = Celery(broker=live.broker.url(1), set_as_current=False)
    for extra in ({"engine": "openai"}, {"calls": []}, {"tenant": "other"}, {"decisions": "approve"}):
        kwargs = {"run_id": run["run_id"], "user_id": "local", **approval(run, type="reject"), **extra}
        app.send_task("mainstem.resume", kwargs=kwargs)
    # The worker takes messages in order: once it has decided about the other run, it has seen all of these.
    app.send_task(
        "mainstem.resume", kwargs={"run_id": other["run_id"], "user_id": "local", **approval(other)}
    )
    app.close()
    await ended(http, other["run_id"])
    assert (await http.get(f"/v1/runs/{run['run_id']}")).json() == run
    headers = {"X-User": "eve", "X-User-Id": "eve", "X-Tenant": "other", "X-Forwarded-User": "eve"}
    query = {"user_id": "eve", "engine": "openai"}
    accepted = await http.post(path, json=approval(run), params=query, headers=headers)
    assert accepted.status_code == 202
    done = await ended(http, run["run_id"])
    assert (done["text"], done["engine"], done["user_id"]) == (demo_text(5), "demo", "local")
    (call,) = [part for part in done["content"] if part["type"] == "tool_call"]
    assert (call["name"], call["arguments"]) == ("demo_tool", {"at": 2})


async def test_a_paused_task_is_over_and_shown_as_paused(live, http: httpx.AsyncClient):
    """Monitors get `task-paused` and no success; no worker has the task any more."""
    live.worker()
    app = Celery(broker=live.broker.url(1), set_as_current=False)
    seen: list[tuple[str, str]] = []
    stop = threading.Event()

    def watch() -> None:
        handlers = {"*": lambda event: seen.append((event["type"], event.get("uuid", "")))}
        with app.connection() as connection:
            receiver = app.events.Receiver(connection, handlers=handlers)
            while not stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.3, wakeup=False)
                except TimeoutError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        wait_until(lambda: seen, description="an event of the worker", timeout_s=20)
        run = await pause(http)
        wait_until(lambda: "task-paused" in [kind for kind, _ in seen], description="the event", timeout_s=10)
        (task_id,) = [uuid for kind, uuid in seen if kind == "task-paused"]
        assert (("task-started", task_id) in seen, ("task-succeeded", task_id) in seen) == (True, False)
        # The event comes from within the task, whose end is near.
        inspector = app.control.inspect(timeout=10, limit=1)
        wait_until(
            lambda: (active := inspector.active()) and not any(active.values()),
            description="the task to be over",
            timeout_s=30,
        )
        async with client(live) as runs:
            await runs.abort(run["run_id"])
    finally:
        stop.set()
        watcher.join(10)
        app.close()
