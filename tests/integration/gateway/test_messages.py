"""A thread's messages over HTTP: one history, its pages, its branches, and whose it is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mainstem_shared import transitions
from mainstem_shared.model import ids
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import check_problem


class Chat:
    """A thread whose runs a test executes by hand."""

    def __init__(self, http: httpx.AsyncClient, store: Store, thread_id: str = "t") -> None:
        self.http, self.store, self.thread_id = http, store, thread_id

    async def start(self, text: str = "", **fields: Any) -> str:
        run_input = {"messages": [{"role": "user", "content": text}]} if text else {}
        body = {"engine": "demo", "input": run_input, **fields}
        response = await self.http.post(f"/v1/threads/{self.thread_id}/runs", json=body)
        assert response.status_code == 202, response.text
        return response.json()["run_id"]

    async def turn(self, text: str = "", words: int = 2, **fields: Any) -> str:
        log = RunLog(self.store, await self.start(text, **fields))
        await log.learn()
        await log.claim()
        await log.say(words)
        await log.finish()
        return log.run_id

    async def messages(self, **query: Any) -> dict[str, Any]:
        response = await self.http.get(f"/v1/threads/{self.thread_id}/messages", params=query)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
def chat(http: httpx.AsyncClient, store: Store) -> Chat:
    return Chat(http, store)


def texts(page: dict[str, Any]) -> list[str]:
    return ["".join(part.get("text", "") for part in message["parts"]) for message in page["messages"]]


async def test_a_thread_is_one_history_of_what_was_said_and_answered(chat: Chat) -> None:
    """Oldest first; each message names the one before; a run at work shows what it has so far."""
    first = await chat.turn("hello", message_id="m1")
    second = await chat.start("again")
    page = await chat.messages()
    assert texts(page) == ["hello", "w0 w1", "again", ""]
    assert [message["id"] for message in page["messages"]] == ["m1", first, f"{second}.in", second]
    assert [message["parent"] for message in page["messages"]] == [None, "m1", first, f"{second}.in"]
    assert [message["role"] for message in page["messages"]] == ["user", "assistant"] * 2
    assert [message["status"] for message in page["messages"]] == [None, "succeeded", None, "queued"]
    assert (page["previous"], page["next"]) == (None, None)


async def test_a_client_that_sends_its_whole_history_says_nothing_twice(chat: Chat) -> None:
    await chat.turn("a")
    history = [
        {"role": role, "content": said} for role, said in (("user", "a"), ("assistant", "x"), ("user", "b"))
    ]
    await chat.turn(input={"messages": history})
    assert texts(await chat.messages()) == ["a", "w0 w1", "b", "w0 w1"]


async def test_a_regeneration_and_an_edit_are_siblings(chat: Chat) -> None:
    """The latest branch is the default; any sibling opens its own."""
    first = await chat.turn("a")
    second = await chat.turn("b")
    again = await chat.turn(parent=f"{second}.in", words=3)
    page = await chat.messages()
    assert texts(page) == ["a", "w0 w1", "b", "w0 w1 w2"]
    assert page["messages"][-1]["siblings"] == [second, again]
    edited = await chat.turn("b, but better", parent=first)
    page = await chat.messages()
    assert texts(page) == ["a", "w0 w1", "b, but better", "w0 w1"]
    assert page["messages"][-2]["siblings"] == [f"{second}.in", f"{edited}.in"]
    assert texts(await chat.messages(branch=second)) == ["a", "w0 w1", "b", "w0 w1"]
    assert texts(await chat.messages(branch=f"{second}.in")) == ["a", "w0 w1", "b", "w0 w1 w2"]


async def test_pages_go_both_ways_and_meet(chat: Chat) -> None:
    """Every message comes once, whatever the size of the page and wherever it begins."""
    for number in range(4):
        await chat.turn(f"q{number}")
    everything = [message["id"] for message in (await chat.messages())["messages"]]
    for limit in range(1, 9):
        backwards: list[str] = []
        page = await chat.messages(limit=limit)
        while True:
            backwards = [message["id"] for message in page["messages"]] + backwards
            if page["previous"] is None:
                break
            page = await chat.messages(limit=limit, before=page["previous"])
        assert backwards == everything
        forwards = everything[:1]
        after = everything[0]
        while after is not None:
            page = await chat.messages(limit=limit, after=after)
            forwards += [message["id"] for message in page["messages"]]
            after = page["next"]
        assert forwards == everything
    assert (await chat.messages(after=everything[-1]))["messages"] == []
    assert (await chat.messages(before=everything[0]))["messages"] == []


async def test_a_conversation_of_thousands_of_runs_has_its_beginning(chat: Chat, store: Store) -> None:
    """Its newest page and its oldest one are read as those of a short one."""
    count, first = 2_500, await chat.turn("hello", message_id="m1")
    state = await transitions.find(store, first)
    assert isinstance(state, transitions.State)
    record = await store.client.hgetall(keys.run(first).record)
    log = await store.client.dump(keys.run(first).log)
    copied = store.client.pipeline(transaction=False)
    for number in range(1, count):
        run_id = ids.run_id("default", "t", ids.uuid7())
        created_ms = state.spec.created_ms + number
        spec = state.spec.model_copy(update={"run_id": run_id, "created_ms": created_ms, "message_id": None})
        names = keys.run(run_id)
        copied.hset(names.record, mapping={**record, b"spec": spec.model_dump_json()})
        copied.pexpire(names.record, 60_000)
        copied.restore(names.log, 60_000, log)
        copied.zadd(names.thread_runs, {run_id: created_ms})
    await copied.execute()
    page = await chat.messages(limit=2)
    assert [message["id"] for message in page["messages"]] == [f"{run_id}.in", run_id]
    oldest = (await chat.messages(limit=3, after="m1"))["messages"]
    assert [oldest[0]["id"], oldest[1]["parent"]] == [first, first]
    beginning = await chat.messages(limit=9, before=oldest[1]["id"])
    assert [message["id"] for message in beginning["messages"]] == ["m1", first]
    assert beginning["previous"] is None


async def test_what_is_not_there_is_not_found(chat: Chat, http: httpx.AsyncClient) -> None:
    check_problem(await http.get("/v1/threads/none/messages"), 404, "not_found")
    await chat.turn("a")
    for query in ({"before": "x"}, {"after": "x"}, {"branch": "x"}):
        check_problem(await http.get("/v1/threads/t/messages", params=query), 404, "not_found")
    both = await http.get("/v1/threads/t/messages", params={"before": "x", "after": "y"})
    check_problem(both, 422, "invalid_request")


async def test_another_users_runs_are_no_part_of_the_history(
    chat: Chat, http: httpx.AsyncClient, store: Store
) -> None:
    """Without private threads users may share one: each sees what is theirs."""
    await RunLog.start(store, user_id="somebody", thread_id="theirs")
    check_problem(await http.get("/v1/threads/theirs/messages"), 404, "not_found")


# -- what people say about threads and runs


async def test_threads_are_listed_by_their_last_activity_and_found_by_their_title(
    http: httpx.AsyncClient, store: Store
) -> None:
    """Each once, whatever the size of the pages; a title somebody gave beats the engine's and what was said."""
    for name in ("a", "b", "c", "a"):
        await Chat(http, store, name).turn(f"Hello from {name}")
    await http.patch("/v1/threads/b", json={"title": "Grüße", "labels": ["x"]})
    listed = (await http.get("/v1/threads")).json()
    titles = [(thread["thread_id"], thread["title"]) for thread in listed["threads"]]
    assert titles == [("a", "Hello from a"), ("c", "Hello from c"), ("b", "Grüße")]
    assert (listed["next"], listed["threads"][2]["labels"]) == (None, ["x"])
    one_by_one, cursor = [], None
    while True:
        query = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = (await http.get("/v1/threads", params=query)).json()
        one_by_one += [thread["thread_id"] for thread in page["threads"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert one_by_one == ["a", "c", "b"]
    found = (await http.get("/v1/threads", params={"search": "GRÜ"})).json()["threads"]
    assert [thread["thread_id"] for thread in found] == ["b"]


async def test_absent_is_not_cleared(chat: Chat, http: httpx.AsyncClient) -> None:
    """Null clears; what is not given stays, of threads and of runs; a cleared value is what it was at first."""
    run_id = await chat.turn("a", metadata={"n": 1})
    for path in ("/v1/threads/t", f"/v1/runs/{run_id}"):
        await http.patch(path, json={"title": "T", "labels": ["l"], "metadata": {"k": "v"}})
        changed = (await http.patch(path, json={"labels": None})).json()
        assert (changed["title"], changed["metadata"], changed.get("labels")) == ("T", {"k": "v"}, None)
    cleared = (await http.patch(f"/v1/runs/{run_id}", json={"title": None, "metadata": None})).json()
    assert (cleared["title"], cleared["metadata"]) == (None, {"n": 1})
    assert (await http.get("/v1/threads")).json()["threads"][0]["title"] == "T"
    for wrong in ({"title": 3}, {"x": 1}, {"labels": [""]}, {"metadata": []}):
        check_problem(await http.patch("/v1/threads/t", json=wrong), 422, "invalid_request")
    check_problem(await http.patch("/v1/threads/none", json={"title": "x"}), 404, "not_found")
    large = await http.patch("/v1/threads/t", json={"metadata": {"x": "y" * 20_000}})
    check_problem(large, 413, "input_too_large")
