"""Archived conversations: branched, searched and paged as if their runs were in the store, also while some go."""

from __future__ import annotations

import unicodedata

import httpx

from integration.gateway.test_messages import Chat, texts
from mainstem_api import AsyncRuns
from mainstem_shared.operations import archive_upkeep
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store.client import Store
from support.processes.gateways import check_problem


async def archive(operations: Operations) -> None:
    """Move all that is over, and see that the store has nothing of it."""
    _ = [moved async for moved in archive_upkeep.backfill(operations)]
    assert [key async for key in operations.store.client.scan_iter("ms:*:record")] == []


async def test_archived_messages_are_edited_and_answered_again(
    archive_http: httpx.AsyncClient, store: Store, operations: Operations
) -> None:
    """The new versions are siblings of the archived ones, before they are archived themselves and after."""
    chat = Chat(archive_http, store)
    first = await chat.turn("a", message_id="m1")
    second = await chat.turn("b")
    await archive(operations)
    again = await chat.turn(parent=f"{second}.in", words=3)
    edit = await chat.turn("c", parent=first)
    opening = await chat.turn("d", parent="root")

    async def check() -> None:
        assert texts(await chat.messages()) == ["d", "w0 w1"]
        assert texts(await chat.messages(branch=edit)) == ["a", "w0 w1", "c", "w0 w1"]
        page = (await chat.messages(branch=again))["messages"]
        assert [message["id"] for message in page] == ["m1", first, f"{second}.in", again]
        assert [message["siblings"] for message in page] == [
            ["m1", f"{opening}.in"], [first], [f"{second}.in", f"{edit}.in"], [second, again],
        ]  # fmt: skip

    await check()
    await archive(operations)
    await check()
    made = await archive_http.post("/v1/threads/t/fork", json={"message_id": again})
    fork = Chat(archive_http, store, made.json()["thread_id"])
    assert texts(await fork.messages()) == ["a", "w0 w1", "b", "w0 w1 w2"]


async def test_titles_are_found_by_what_they_say(
    archive_http: httpx.AsyncClient, store: Store, operations: Operations
) -> None:
    """No character is a wildcard; neither case nor the way an accent is composed matters. Live and archived."""
    titles = {"a": "100% sure_thing", "b": "Straße nach Café", "c": "日本語 🚀", "d": "back\\slash ' quote"}
    finds = {
        "%": "a", "_": "a", "100%": "a", "sure_": "a", "STRASSE": "b", "café": "b",
        unicodedata.normalize("NFD", "café"): "b", "本": "c", "🚀": "c", "\\": "d", "' q": "d", "0 %": "", "s_r": "",
    }  # fmt: skip
    for name, title in titles.items():
        await Chat(archive_http, store, name).turn("x")
        await archive_http.patch(f"/v1/threads/{name}", json={"title": title})

    async def found() -> dict[str, str]:
        answers = {}
        for words in finds:
            listed = (await archive_http.get("/v1/threads", params={"search": words})).json()["threads"]
            answers[words] = "".join(thread["thread_id"] for thread in listed)
        return answers

    assert await found() == finds
    await archive(operations)
    assert await found() == finds


async def test_messages_that_go_while_somebody_pages_are_missed_alone(
    archive_http: httpx.AsyncClient, store: Store, operations: Operations, runs: AsyncRuns
) -> None:
    """A page after a message that is gone is not found; all others come once. A thread that is gone is 404."""
    chat = Chat(archive_http, store)
    turns = [await chat.turn(f"q{number}") for number in range(4)]
    await archive(operations)
    page = await chat.messages(limit=4)
    await runs.delete(turns[1])
    assert texts(await chat.messages(limit=9, before=page["previous"])) == ["q0", "w0 w1"]
    await runs.delete(turns[2])
    gone = await archive_http.get("/v1/threads/t/messages", params={"before": page["previous"]})
    check_problem(gone, 404, "not_found")
    assert texts(await chat.messages()) == ["q0", "w0 w1", "q3", "w0 w1"]
    await archive_http.delete("/v1/threads/t")
    check_problem(await archive_http.get("/v1/threads/t/messages"), 404, "not_found")
