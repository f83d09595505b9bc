"""Archived threads are read in few round trips, however long they are, also while their runs move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from mainstem_shared.archive.database import Archive
from mainstem_shared.operations.queries import conversations
from mainstem_shared.operations.queries.conversations import Query
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing

RUNS = 24


@contextmanager
def queries(engine: Any) -> Iterator[list[str]]:
    """The statements that the database is asked while the context lasts."""
    asked: list[str] = []

    def note(*given: Any) -> None:
        asked.append(given[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def commands(store: Store) -> int:
    stats = await store.client.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if name != "cmdstat_info")


async def test_a_thread_takes_few_questions(
    store: Store, kept: Archive, sweeper: Sweeper, finished: Finishing
) -> None:
    """A page of an archived thread is a query or two and a handful of commands, not some for each run."""
    made = {await finished(thread_id="long") for _ in range(RUNS)}
    for run_id in made:
        await store.client.hset(keys.run(run_id).record, "input", b'{"prompt":"What is it?"}')
    await sweeper.sweep()
    assert await kept.known(made) == made
    before = await commands(store)
    with queries(await kept.open()) as asked:
        page = await conversations.page(store, Query(tenant="default", thread_id="long", limit=2 * RUNS))
    answers = [message for message in page.messages if message.role == "assistant"]
    assert {message.id for message in answers} == made
    assert [message.parts for message in answers] == [[{"type": "text", "text": "w0 w1 w2"}]] * RUNS
    assert len(page.messages) == 2 * RUNS
    assert len(asked) == 1, asked
    assert await commands(store) - before <= 4
    with queries(await kept.open()) as asked:
        branch = Query(tenant="default", thread_id="long", limit=2 * RUNS, branch=page.messages[-1].id)
        assert await conversations.page(store, branch) == page
    assert len(asked) == 2, asked


async def test_a_thread_that_moves_while_it_is_read(
    store: Store, kept: Archive, sweeper: Sweeper, finished: Finishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that leave the store right after the archive was asked for the thread's are in the page."""
    made = {await finished(thread_id="moving") for _ in range(RUNS)}
    specs = kept.threads.specs

    async def asked_too_early(*given: Any, **named: Any) -> Any:
        found = await specs(*given, **named)
        await sweeper.sweep()
        return found

    monkeypatch.setattr(kept.threads, "specs", asked_too_early)
    page = await conversations.page(store, Query(tenant="default", thread_id="moving", limit=RUNS))
    assert {message.id for message in page.messages} == made == await kept.known(made)
    assert not await store.client.exists(*(keys.run(run_id).record for run_id in made))
