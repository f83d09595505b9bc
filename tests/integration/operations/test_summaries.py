"""Runs without their content, for lists that are refreshed every second; and who is asking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mainstem_shared.model.events import Type
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS, bearer
from support.models import listed
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, check_problem


@pytest.fixture
def gateway(store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    with GatewayThread(
        store_url, broker_url, flower_url="http://flower.test", default_engine="demo"
    ) as running:
        yield running


async def begin(http: httpx.AsyncClient, thread: str, **headers: str) -> str:
    body = {"engine": "demo", "metadata": {"prompt": thread}}
    started = await http.post(f"/v1/threads/{thread}/runs", json=body, headers=headers)
    return started.json()["run_id"]


async def overview(http: httpx.AsyncClient, headers: dict[str, str] | None = None, **query: Any) -> Any:
    answer = await http.get("/v1/overview", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_summary_is_the_run_without_its_content(http: httpx.AsyncClient, store: Store) -> None:
    """All members that the run has too say the same; beside them: the task, and how much was written."""
    run_id = await begin(http, "t")
    log = RunLog(store, run_id)
    await log.learn()
    await log.claim("w7")
    await log.say(5)
    [summary] = (await overview(http))["runs"]
    run = (await http.get(f"/v1/runs/{run_id}")).json()
    assert (summary["events"], summary["task_id"], summary["stopping"]) == (5, "t", False)
    assert {k: v for k, v in summary.items() if k not in {"events", "task_id", "stopping"}} == {
        k: v
        for k, v in run.items()
        if k not in {"text", "content", "steps", "usage", "title", "inputs", "cursor"}
    }
    await store.client.hset(keys.run(run_id).record, "stop_reason", "user_abort")
    [summary] = (await overview(http))["runs"]
    assert summary["stopping"]
    await log.finish()
    [summary] = (await overview(http))["runs"]
    assert (summary["status"], summary["events"], summary["stopping"]) == ("succeeded", None, False)
    assert (summary["worker"], summary["task_id"]) == ("w7", "t")


async def test_all_unfinished_runs_are_counted_and_shown_newest_first(
    http: httpx.AsyncClient, store: Store
) -> None:
    """With `active=true` there are no pages; what is over is not there."""
    run_ids = [await begin(http, f"t{n}") for n in range(4)]
    ended = RunLog(store, run_ids[0])
    running = RunLog(store, run_ids[1])
    for log in (ended, running):
        await log.learn()
        await log.claim()
    await ended.finish()
    await listed.put(store.client, "active", {ended.run_id: 0})  # a sweeper has not tidied yet
    found = await overview(http, active=True)
    assert [run["run_id"] for run in found["runs"]] == run_ids[:0:-1]
    assert found["counts"] == {"queued": 2, "running": 1}
    assert found["next"] is None


async def test_summaries_come_in_pages_like_runs(http: httpx.AsyncClient) -> None:
    """The pages' cursors lead through all runs, once each; foreign cursors are refused."""
    run_ids = [await begin(http, f"t{n}") for n in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await overview(http, limit=2, **({"cursor": cursor} if cursor else {}))
        seen += [run["run_id"] for run in page["runs"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == run_ids[::-1]
    check_problem(await http.get("/v1/overview", params={"cursor": "x"}), 400, "invalid_cursor")
    check_problem(await http.get("/v1/overview", params={"limit": 101}), 422, "invalid_request")


async def test_a_log_with_megabytes_in_it_is_not_read(http: httpx.AsyncClient, store: Store) -> None:
    """A running run's summary costs the log's last entry, a finished one's nothing of it."""
    log = RunLog(store, await begin(http, "t"))
    await log.learn()
    await log.claim()
    for part in range(8):
        await log.append(
            (Type.MESSAGE_DELTA, {"part": part, "text": "x" * 200_000}), (Type.TITLE, {"title": "T"})
        )

    async def sent(**query: Any) -> int:
        before = (await store.client.info("stats"))["total_net_output_bytes"]
        assert (await overview(http, **query))["runs"]
        return (await store.client.info("stats"))["total_net_output_bytes"] - before

    assert await sent(active=True) < 100_000
    await log.finish()
    assert await sent() < 100_000


async def test_who_is_asking(http: httpx.AsyncClient, store: Store) -> None:
    """The user, the engines that workers announced with their schemas, and where Flower is."""
    await store.client.hset(keys.ENGINES, mapping={"demo": '{"type":"object"}', "openai": "{}"})
    assert (await http.get("/v1/me")).json() == {
        "user_id": "local",
        "tenant": "default",
        "admin": False,
        "engines": [{"name": "demo", "input_schema": {"type": "object"}, "is_default": True}],
        "flower_url": "http://flower.test",
    }  # no model is configured for the other one


async def test_everybody_sees_their_own_and_admins_their_tenants(store_url: str, broker_url: str) -> None:
    """By default an admin's own too; nobody without a token, and of other tenants nobody."""
    with GatewayThread(store_url, broker_url, **SETTINGS) as locked:
        async with locked.client() as http:
            ann, bob = bearer("ann", tenant="a"), bearer("bob", tenant="a")
            hers, his = await begin(http, "t1", **ann), await begin(http, "t2", **bob)
            admin, stranger = (
                bearer("root", tenant="a", scope="admin"),
                bearer("x", tenant="b", scope="admin"),
            )
            for active in (True, False):

                async def listed(headers: dict[str, str], *, active: bool = active, **query: str) -> set[str]:
                    found = await overview(http, headers, active=active, **query)
                    return {run["run_id"] for run in found["runs"]}

                assert await listed(ann) == await listed(admin, user="ann") == {hers}
                assert await listed(admin, user="*") == {hers, his}
                assert (
                    await listed(admin)
                    == await listed(bob, user="ann")
                    == await listed(bob, user="*")
                    == set()
                )
                assert await listed(stranger, user="*") == set()
            for path in ("/v1/overview", "/v1/me"):
                check_problem(await http.get(path), 401, "not_authenticated")
            assert (await http.get("/v1/me", headers=admin)).json()["admin"] is True
