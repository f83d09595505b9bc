"""Forks over HTTP: a new thread with the same history, which goes on by itself."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from integration.gateway.test_messages import Chat, texts
from mainstem_shared.model import contents, events
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import check_problem

KEPT = ("role", "parts", "created_at", "status", "reason", "error", "title", "output", "metadata")
PICTURE = f"data:image/png;base64,{base64.b64encode(bytes(range(256)) * 400).decode()}"


async def fork(http: httpx.AsyncClient, source: str = "t", /, **body: Any) -> dict[str, Any]:
    response = await http.post(f"/v1/threads/{source}/fork", json=body)
    assert response.status_code == 201, response.text
    return response.json()


def same(page: dict[str, Any]) -> list[dict[str, Any]]:
    """What a copied message has in common with the original."""
    return [{name: message.get(name) for name in KEPT} for message in page["messages"]]


async def test_a_fork_has_the_history_up_to_each_message_and_names_where_it_is_from(
    http: httpx.AsyncClient, store: Store
) -> None:
    """At answers and at questions, on the latest branch and on others; nothing of the original changes."""
    chat = Chat(http, store)
    first = await chat.turn("a", message_id="m1", metadata={"k": 1})
    second = await chat.turn("b")
    again = await chat.turn(parent=f"{second}.in", words=3)
    await chat.turn("b, but better", parent=first)
    await http.patch("/v1/threads/t", json={"title": "T", "labels": ["l"]})
    for branch in (first, second, again, None):
        original = await chat.messages(**({"branch": branch} if branch else {}))
        for count in range(1, len(original["messages"]) + 1):
            upto = original["messages"][:count]
            made = await fork(http, message_id=upto[-1]["id"])
            page = await Chat(http, store, made["thread_id"]).messages()
            assert same(page) == same({"messages": upto})
            assert page["messages"][-1]["id"] == made["message_id"]
            sources = [message["forked_from"] for message in page["messages"]]
            assert sources == [{"thread_id": "t", "message_id": message["id"]} for message in upto]
            parents = [message["parent"] for message in page["messages"]]
            assert parents == [None, *(message["id"] for message in page["messages"][:-1])]
            assert (page["previous"], page["next"]) == (None, None)
            assert await chat.messages(**({"branch": branch} if branch else {})) == original
    listed = (await http.get("/v1/threads")).json()["threads"]
    assert {(thread["title"], *thread["labels"]) for thread in listed} == {("T", "l")}


async def test_a_fork_goes_on_by_itself(http: httpx.AsyncClient, store: Store) -> None:
    """New turns, regenerations of copied ones, a fork of the fork; the original may be deleted."""
    chat = Chat(http, store)
    await chat.turn("a")
    second = await chat.turn("b")
    at_question = Chat(http, store, (await fork(http, message_id=f"{second}.in"))["thread_id"])
    asked = (await at_question.messages())["messages"][-1]["id"]
    answered = await at_question.turn(parent=asked, words=4)
    page = await at_question.messages()
    assert texts(page) == ["a", "w0 w1", "b", "w0 w1 w2 w3"]
    assert page["messages"][-1]["siblings"] == [answered]
    assert page["messages"][-1]["parent"] == asked

    unanswered = Chat(http, store, (await fork(http, message_id=f"{second}.in"))["thread_id"])
    await unanswered.turn("and c")
    assert texts(await unanswered.messages()) == ["a", "w0 w1", "b", "and c", "w0 w1"]
    (*_, unheard, question, _) = (await unanswered.messages())["messages"]
    assert question["parent"] == unheard["id"]
    forwards = await unanswered.messages(after=(await unanswered.messages())["messages"][0]["id"])
    assert (texts(forwards), forwards["next"]) == (["w0 w1", "b", "and c", "w0 w1"], None)

    branch = Chat(http, store, (await fork(http))["thread_id"])
    copied = (await branch.messages())["messages"]
    await branch.turn("c")
    again = await branch.turn(parent=copied[0]["id"], words=1)
    assert texts(await branch.messages()) == ["a", "w0"]
    assert (await branch.messages())["messages"][-1]["siblings"] == [copied[1]["id"], again]
    deeper = Chat(http, store, (await fork(http, branch.thread_id))["thread_id"])
    assert (await http.delete("/v1/threads/t")).status_code in (200, 204)
    assert texts(await deeper.messages()) == ["a", "w0"]


async def test_a_fork_at_a_cursor_ends_there(http: httpx.AsyncClient, store: Store) -> None:
    """Of a run at work, and of one that is over as long as its events are kept; calls are closed."""
    run_id = await Chat(http, store).start("a")
    log = RunLog(store, run_id)
    await log.learn()
    await log.claim()
    await log.say(2)
    middle = log.top
    call = {"step_id": "c", "kind": "tool_call", "name": "f", "arguments": {}, "at": 1}
    await log.append((events.Type.STEP_STARTED, call))
    asked = log.top
    await log.say(2)
    for over in (False, True):
        if over:
            await log.finish()
        for cursor, words in ((middle, ["w0 w1"]), (asked, ["w0 w1", ""]), (None, ["w0 w1", "", " w2 w3"])):
            made = await fork(http, message_id=run_id, **({"cursor": str(cursor)} if cursor else {}))
            (_, answer) = (await Chat(http, store, made["thread_id"]).messages())["messages"]
            assert [part.get("text", "") for part in answer["parts"]] == words
            whole = over and cursor is None
            assert answer["status"] == ("succeeded" if whole else "aborted")
            states = {part["state"] for part in answer["parts"] if part["type"] == "tool_call"}
            assert states <= ({"called"} if whole else {"aborted"}), states
    for cursor in (f"{middle.epoch}-99", "x"):
        reply = await http.post("/v1/threads/t/fork", json={"message_id": run_id, "cursor": cursor})
        check_problem(reply, 400, "invalid_cursor")
    reply = await http.post("/v1/threads/t/fork", json={"message_id": f"{run_id}.in", "cursor": str(middle)})
    check_problem(reply, 422, "invalid_request")


async def test_files_of_a_fork_are_its_own(http: httpx.AsyncClient, store: Store) -> None:
    """They stay when the original goes; what a message names of somebody else's is not copied."""
    picture = {"type": "image_url", "image_url": {"url": PICTURE}}
    chat = Chat(http, store)
    await chat.turn(input={"messages": [{"role": "user", "content": [picture]}]})
    made = await fork(http)
    (part,) = (await Chat(http, store, made["thread_id"]).messages())["messages"][0]["parts"]
    assert made["run_id"] in part["url"]
    (theirs,) = (await chat.messages())["messages"][0]["parts"]
    owner = theirs["url"].split("/")[3]
    named = f"mainstem-blob:{owner}/{theirs['digest']};{theirs['size']};image/png"
    thief = Chat(http, store, "thief")
    await thief.turn(input={"messages": [{"role": "user", "content": named}]})  # no file: nothing is copied
    stolen = await fork(http, "thief")
    assert (await http.get(f"/v1/runs/{stolen['run_id']}/blobs/{theirs['digest']}")).status_code == 404
    await http.delete("/v1/threads/t")
    assert (await http.get(part["url"])).content == bytes(range(256)) * 400


async def test_a_fork_that_is_asked_for_again_is_the_same(http: httpx.AsyncClient, store: Store) -> None:
    """By its thread's id or an idempotency key, also after it went on; another one's thread is refused."""
    chat = Chat(http, store)
    await chat.turn("a")
    last = await chat.turn("b")
    made = await fork(http, thread_id="new")
    copy = Chat(http, store, "new")
    before = await copy.messages()
    assert await fork(http, thread_id="new") == made
    assert await copy.messages() == before
    await copy.turn("c")
    assert (await fork(http, thread_id="new", message_id=last))["run_id"] == made["run_id"]
    assert len((await copy.messages())["messages"]) == 6
    headers = {"Idempotency-Key": "k"}
    replies = [(await http.post("/v1/threads/t/fork", json={}, headers=headers)).json() for _ in range(2)]
    assert replies[0] == replies[1]
    for taken, at in (("t", last), ("new", f"{last}.in")):
        reply = await http.post("/v1/threads/t/fork", json={"thread_id": taken, "message_id": at})
        check_problem(reply, 409, "conflict")


async def test_nobody_forks_what_is_not_theirs(http: httpx.AsyncClient, store: Store) -> None:
    await RunLog.start(store, user_id="somebody", thread_id="theirs")
    for thread_id in ("theirs", "none"):
        check_problem(await http.post(f"/v1/threads/{thread_id}/fork", json={}), 404, "not_found")
    await Chat(http, store).turn("a")
    check_problem(await http.post("/v1/threads/t/fork", json={"message_id": "x"}), 404, "not_found")
    check_problem(await http.post("/v1/threads/t/fork", json={"at": "x"}), 422, "invalid_request")


async def test_a_copy_is_over_and_has_cost_nothing(http: httpx.AsyncClient, store: Store) -> None:
    """Readers of a copy's events get its content and its end; nobody executes it, and no usage is its."""
    log = RunLog(store, await Chat(http, store).start("a"))
    await log.learn()
    await log.claim()
    await log.say(2)
    await log.append((events.Type.USAGE, {"input_tokens": 3, "output_tokens": 4}))
    await log.finish()
    made = await fork(http)
    run = (await http.get(f"/v1/runs/{made['run_id']}")).json()
    assert (run["text"], run["status"], run["usage"]) == ("w0 w1", "succeeded", None)
    stream = await http.get(f"/v1/runs/{made['run_id']}/events")
    assert "run.finished" in stream.text
    assert not await store.client.zscore(keys.run(made["run_id"]).active, made["run_id"])
    assert contents.fold(log.entries).text == run["text"]
