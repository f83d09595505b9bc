"""What runs started, as a tree; and bulk re-runs: counted first, started once, for the users whose runs they were."""

from __future__ import annotations

import httpx

from mainstem_shared import transitions
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations import children
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.dying_process import Messages


async def begin(http: httpx.AsyncClient, thread: str, engine: str = "demo") -> str:
    body = {"engine": engine, "input": {"tokens": 7}, "metadata": {"prompt": thread}}
    return (await http.post(f"/v1/threads/{thread}/runs", json=body)).json()["run_id"]


async def test_a_run_has_its_children_and_theirs(http: httpx.AsyncClient, store: Store) -> None:
    root = await begin(http, "t")
    operations = Operations(store=store, settings=Settings(), publisher=Messages())

    async def child(of: str, key: str) -> str:
        found = await transitions.find_fields(store, of, Record.spec)
        assert not isinstance(found, transitions.Gone)
        return await children.start(operations, found.spec, key=key, fields={"engine": "demo", "input": {}})

    first, second = await child(root, "a"), await child(root, "b")
    grandchild = await child(first, "c")
    told = (await http.get(f"/v1/runs/{root}/details")).json()
    tree = {one["run_id"]: [below["run_id"] for below in one["children"]] for one in told["children"]}
    assert tree == {first: [grandchild], second: []}
    alone = (await http.get(f"/v1/runs/{grandchild}/details")).json()
    assert "children" not in alone
    assert alone["run"]["parent_run"] == first


async def test_a_bulk_rerun_counts_first_and_starts_once(http: httpx.AsyncClient, store: Store) -> None:
    """What failed, and nothing else; repeated with its key it starts nothing more; the new runs are the same."""
    await store.client.set(keys.lease("w1"), "worker", ex=120)
    failed = [await begin(http, thread) for thread in ("a", "b")]
    done = await begin(http, "c")
    for run_id, reason in (
        (failed[0], Reason.ENGINE_ERROR),
        (failed[1], Reason.ENGINE_ERROR),
        (done, Reason.COMPLETED),
    ):
        log = RunLog(store, run_id)
        await log.learn()
        await log.claim("w1")
        await log.finish(reason)
    found = {"status": "failed", "dry_run": "true"}
    counted = (await http.post("/v1/overview/rerun", params=found)).json()
    assert counted == {"matched": 2, "started": 0, "refused": {}}
    found["dry_run"] = "false"
    for _ in range(2):
        answered = await http.post("/v1/overview/rerun", params=found, headers={"Idempotency-Key": "k"})
        assert answered.json() == {"matched": 2, "started": 2, "refused": {}}
    listed = (await http.get("/v1/overview", params={"status": "queued"})).json()["runs"]
    assert sorted(one["thread_id"] for one in listed) == ["a", "b"]
    given = (await http.get(f"/v1/runs/{listed[0]['run_id']}/details")).json()["input"]
    assert given == {"tokens": 7}
