"""What an application does about an event is committed with the event's id: once, whatever comes twice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from mainstem_api.callbacks import on_run_end

EVENT = {"id": "run.7", "data": {"run_id": "run"}}


@pytest.fixture
def engine(tmp_path: Path) -> sqlalchemy.Engine:
    made = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/app.db", poolclass=sqlalchemy.NullPool)
    with made.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE messages (run TEXT)"))
    return made


def stored(engine: sqlalchemy.Engine) -> list[str]:
    with engine.begin() as connection:
        return list(connection.execute(sqlalchemy.text("SELECT run FROM messages")).scalars())


def test_an_event_counts_once(engine: sqlalchemy.Engine):
    """The second call does nothing and says so; another event counts again."""

    @on_run_end(engine)
    def store(event: dict[str, Any], connection: sqlalchemy.Connection) -> None:
        connection.execute(sqlalchemy.text("INSERT INTO messages VALUES (:id)"), {"id": event["id"]})

    assert [store(EVENT), store(EVENT), store({**EVENT, "id": "run.8"})] == [True, False, True]
    assert stored(engine) == ["run.7", "run.8"]


def test_what_fails_leaves_no_trace(engine: sqlalchemy.Engine):
    """The event's id is rolled back with the rest: when it comes again it counts."""
    failures = [RuntimeError("the mail server is down"), None]

    @on_run_end(engine)
    def store(event: dict[str, Any], connection: sqlalchemy.Connection) -> None:
        connection.execute(sqlalchemy.text("INSERT INTO messages VALUES (:id)"), {"id": event["id"]})
        if (failure := failures.pop(0)) is not None:
            raise failure

    with pytest.raises(RuntimeError):
        store(EVENT)
    assert stored(engine) == []
    assert store(EVENT)
    assert stored(engine) == ["run.7"]


def test_deliveries_at_the_same_time_count_once(engine: sqlalchemy.Engine):
    """Two workers that have the same message at once."""
    together, counted = threading.Barrier(4), []

    @on_run_end(engine)
    def store(event: dict[str, Any], connection: sqlalchemy.Connection) -> None:
        connection.execute(sqlalchemy.text("INSERT INTO messages VALUES (:id)"), {"id": event["id"]})

    def receive() -> None:
        together.wait()
        counted.append(store(EVENT))

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counted) == [False, False, False, True]
    assert stored(engine) == ["run.7"]
