"""Receives callbacks in an application: verifies webhooks, processes each event exactly once.

An event may come more than once, each time under the same id. `on_run_end` commits the id together with what
the application does about it, in its own database: SQLAlchemy's or Django's. See docs/callbacks.md.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

from mainstem_shared.model import jsontext, webhook_signatures

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["on_run_end", "verified"]

_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS mainstem_processed_events "
    "(event_id VARCHAR(255) NOT NULL PRIMARY KEY, at_s BIGINT NOT NULL)"
)
_INSERT: Final = "INSERT INTO mainstem_processed_events VALUES (:event_id, :at_s)"
_INSERT_BY_DJANGO: Final = "INSERT INTO mainstem_processed_events VALUES (%s, %s)"
Event = dict[str, Any]


class _Seen(Exception):
    """The event counted before."""


def verified(body: bytes, headers: Mapping[str, str], *, secrets: str | Sequence[str]) -> Event:
    """Return the event of a webhook that one of these secrets (`whsec_…`) has signed, within five minutes.

    Raises:
        NotAuthenticated: it is not from there, or was changed on its way: answer 401.
        Misconfigured: a secret is none.
    """
    accepted = secrets.split(",") if isinstance(secrets, str) else secrets
    webhook_signatures.verify(accepted, headers, body, now_s=time.time())
    event: Event = jsontext.loads(body)
    return event


@overload
def on_run_end(
    engine: Engine,
) -> Callable[[Callable[[Event, Connection], object]], Callable[[Event], bool]]: ...
@overload
def on_run_end(*, django: str) -> Callable[[Callable[[Event], object]], Callable[[Event], bool]]: ...
def on_run_end(
    engine: Engine | None = None, *, django: str | None = None
) -> Callable[[Callable[..., object]], Callable[[Event], bool]]:
    """Decorate a function that processes each event once, in one transaction with the event's id.

    An exception of the function rolls both back: the event is delivered again. The result says whether this
    call processed the event.

    Args:
        engine: SQLAlchemy's; the function gets the event and the transaction's connection.
        django: the alias of a Django database; the function gets the event, within `transaction.atomic`.
    """

    def decorate(function: Callable[..., object]) -> Callable[[Event], bool]:
        @functools.wraps(function)
        def once(event: Event) -> bool:
            if engine is not None:
                return _with_sqlalchemy(engine, function, event)
            return _with_django(django or "default", function, event)

        return once

    return decorate


def _with_sqlalchemy(engine: Engine, function: Callable[..., object], event: Event) -> bool:
    from sqlalchemy import text

    with engine.begin() as connection:
        connection.execute(text(_CREATE))
    try:
        with engine.begin() as connection:
            # Another transaction with this id is waited for. No savepoint: SQLite's driver undoes none.
            _first(connection, text(_INSERT), event)
            function(event, connection)
    except _Seen:
        return False
    return True


def _first(connection: Connection, insert: Any, event: Event) -> None:
    from sqlalchemy.exc import IntegrityError

    try:
        connection.execute(insert, {"event_id": event["id"], "at_s": int(time.time())})
    except IntegrityError as error:
        raise _Seen from error


def _with_django(alias: str, function: Callable[..., object], event: Event) -> bool:
    django: Any = importlib.import_module("django.db")  # its types are a package of its own
    connection, transaction = django.connections[alias], django.transaction
    with connection.cursor() as cursor:
        cursor.execute(_CREATE)
    with transaction.atomic(using=alias):
        try:
            with transaction.atomic(using=alias), connection.cursor() as cursor:
                cursor.execute(_INSERT_BY_DJANGO, [event["id"], int(time.time())])
        except django.IntegrityError:
            return False
        function(event)
    return True
