"""The messages that stand ready in the archive's rows are those that are built from specs and contents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import update

from mainstem_api import AsyncRuns
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.tables import RUNS
from mainstem_shared.model import jsontext
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.ready_messages import Ready
from mainstem_shared.operations import forking
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import conversations, ready_pages
from mainstem_shared.operations.queries.conversations import Query
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing

THREAD = "t"


@pytest.fixture
def archive_url(each_database: str) -> str:
    """The archive's address: every test runs on both databases."""
    return each_database


class Talk:
    """Makes the runs of a thread, as clients start them."""

    def __init__(self, finished: Finishing) -> None:
        self._finished = finished
        self.ids: list[str] = []

    async def say(self, said: dict[str, Any], *, user_id: str = "local", **spec: Any) -> str:
        """Have a run with this input; `spec` is what else its start said."""
        run_id = await self._finished(thread_id=THREAD, user_id=user_id)
        record, client = keys.run(run_id).record, self._finished.store.client
        known = jsontext.loads(await client.hget(record, "spec"))
        known |= {"created_ms": known["created_ms"] + len(self.ids), **spec}
        await client.hset(record, mapping={"input": jsontext.dumps(said), "spec": jsontext.dumps(known)})
        self.ids.append(run_id)
        return run_id


async def line(talk: Talk) -> None:
    """One after the other; a message is named by its client, one says two things, one nothing."""
    await talk.say({"prompt": 'one \x00 \u00e9 "parent":null'}, parent="root")
    await talk.say({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]})
    await talk.say({}, parent=talk.ids[-1])
    await talk.say({"value": {"parent": None, "deep": [1.5, 10**30]}}, message_id="named by its client")


async def whole_histories(talk: Talk) -> None:
    """Each start has all that was said before, as stock clients send it."""
    said: list[dict[str, str]] = [{"role": "system", "content": "be kind"}]
    for number in range(4):
        said.append({"role": "user", "content": f"question {number}"})
        await talk.say({"messages": said})
        said = [*said, {"role": "assistant", "content": "w0 w1 w2"}]


async def regenerated(talk: Talk) -> None:
    """The second question is answered twice, and then edited."""
    first = await talk.say({"prompt": "one"})
    second = await talk.say({"prompt": "two"})
    await talk.say({"prompt": "two"}, parent=f"{second}.in")
    await talk.say({"prompt": "another two"}, parent=first)


async def edited_at_once(talk: Talk) -> None:
    """The newest run stands where the one before it stands."""
    await talk.say({"prompt": "one"})
    await talk.say({"prompt": "two"}, parent=talk.ids[0])
    await talk.say({"prompt": "three"}, parent=talk.ids[0])


async def begun_with_a_history(talk: Talk) -> None:
    """The first start brings a conversation from elsewhere."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    await talk.say({"messages": [*said, {"role": "user", "content": "c"}]})
    await talk.say({"prompt": "d"})


async def of_two(talk: Talk) -> None:
    """Two users take turns."""
    for number in range(3):
        await talk.say({"prompt": f"mine {number}"})
        await talk.say({"prompt": f"theirs {number}"}, user_id="bob")


async def half_a_pair(talk: Talk) -> None:
    """Somebody said half of a surrogate pair."""
    await talk.say({"prompt": "half \ud83d"})


THREADS: dict[Callable[[Talk], Awaitable[None]], bool] = {
    line: True, whole_histories: True, regenerated: False, edited_at_once: False,
    begun_with_a_history: False, of_two: True, half_a_pair: True,
}  # fmt: skip
"""Kinds of threads, and whether their newest messages stand ready."""


async def pages(store: Store, query: Query, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A page as JSON: as it stands ready, as that is parsed, and as it is built."""
    ready = await conversations.ready_page(store, query)
    parsed = await conversations.page(store, query)
    with monkeypatch.context() as patched:

        async def none(*_: Any, **__: Any) -> None:
            return None

        patched.setattr(ready_pages, "find", none)
        built = await conversations.page(store, query)
    assert parsed == built
    made = {
        "messages": [message.model_dump(mode="json") for message in built.messages],
        "previous": built.previous,
        "next": built.next,
    }
    return [ready and jsontext.loads(ready.json()), made]


@pytest.mark.parametrize("kind", THREADS, ids=lambda kind: kind.__name__)
async def test_what_stands_ready_is_what_would_be_built(
    kind: Any, store: Store, finished: Finishing, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of every length, of one user and of all; where messages depend on other branches none is ready."""
    await kind(Talk(finished))
    query = Query(tenant="default", thread_id=THREAD, limit=200)
    assert await conversations.ready_page(store, query) is None, "the store has them"
    await sweeper.sweep()
    for user_id in (None, "local"):
        for limit in (1, 2, 3, 4, 5, 200):
            query = Query(tenant="default", thread_id=THREAD, user_id=user_id, limit=limit)
            ready, built = await pages(store, query, monkeypatch)
            assert ready == built or ready is None
            if limit == 200:
                assert (ready is not None) is THREADS[kind]


async def test_a_description_is_in_what_stands_ready(
    store: Store, kept: Archive, finished: Finishing, sweeper: Sweeper, runs: AsyncRuns,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also one that was made after the run moved; a row that another version changed is not believed."""
    talk = Talk(finished)
    await line(talk)
    await sweeper.sweep()
    await runs.describe(talk.ids[1], {"title": "new", "metadata": {"a": [1]}})
    query = Query(tenant="default", thread_id=THREAD, limit=200)
    ready, built = await pages(store, query, monkeypatch)
    assert ready == built
    assert "new" in {message["title"] for message in built["messages"]}

    async def touch(connection: Any) -> None:
        await connection.execute(update(RUNS).values(archived_ms=RUNS.c.archived_ms + 1))

    await kept.write(touch)
    ready, _ = await pages(store, query, monkeypatch)
    assert ready is None


async def test_copies_and_damage_are_built(
    store: Store, kept: Archive, finished: Finishing, sweeper: Sweeper, operations: Operations,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A fork's messages depend on where it was made; damaged ones are built from what the row has besides."""
    await line(Talk(finished))
    await sweeper.sweep()
    query = Query(tenant="default", thread_id=THREAD, limit=200)
    await forking.fork_thread(
        operations, query, forking.Point(), principal=Principal(user_id="local"), thread_id="fork"
    )
    for run_id in await store.client.zrange(keys.thread_runs("default", "fork"), 0, -1):
        await finished.due(run_id.decode())
    await sweeper.sweep()
    fork = Query(tenant="default", thread_id="fork", limit=200)
    ready, built = await pages(store, fork, monkeypatch)
    assert ready is None
    assert len(built["messages"]) == 8

    async def damage(connection: Any) -> None:
        await connection.execute(update(RUNS).values(messages=b"[1,\nx"))

    await kept.write(damage)
    ready, _ = await pages(store, query, monkeypatch)
    assert ready is None


async def test_large_messages_are_not_kept_twice(
    store: Store, finished: Finishing, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose messages are longer than the bound is built at each reading."""
    await Talk(finished).say({"prompt": "x" * (ready_pages.LONGEST + 1)})
    await sweeper.sweep()
    query = Query(tenant="default", thread_id=THREAD, limit=200)
    ready, built = await pages(store, query, monkeypatch)
    assert ready is None
    assert len(built["messages"]) == 2


def test_ready_messages_are_read_as_they_were_written() -> None:
    """Whatever their texts have in them."""
    one, other = b'{"a":"\xc3\xa9\\n,"}', b"{}"
    made = Ready(None, True, 7, 5, [len(one), len(other), len(other)], b",".join((one, other, other)))
    assert Ready.load(made.dump()) == made
    assert made.after(b"null") == b'{"a":null"\xc3\xa9\\n,"},{},{}'
    assert (made.last(1), made.last(2)) == (b"{}", b"{},{}")
