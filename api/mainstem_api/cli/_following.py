"""Follows a run's event stream over HTTP, reconnecting for as long as it takes.

Lost connections are made again with the cursor, and every event is proved to follow the one before.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from httpx_sse import ServerSentEvent, SSEError

from mainstem_api.cli._gateway import Gateway, GatewayError, UnreachableError
from mainstem_shared.model import cursors, events
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 5.0
HOLES: Final = 5
"""Holes in a row at one place, each asked for again, after which the gateway is not worth asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a run."""

    cursor: Cursor
    type: str
    data: dict[str, Any]

    @property
    def replaces(self) -> bool:
        """Whether the event holds the whole content, instead of adding to it."""
        return "content" in self.data

    @property
    def text(self) -> str:
        """The whole text that a replacing event holds."""
        return events.text_of(self.data["content"])

    def follows(self, cursor: Cursor) -> bool:
        """Tell whether it is the very next event after a reader's cursor."""
        named = self.data.get("prev") if self.cursor.is_control else None
        return cursors.follows(cursor, self.cursor, cursors.parse(named) if named else None)

    def may_follow(self, cursor: Cursor | None) -> bool:
        """Tell whether a reader at the cursor may go on with it: states stand in for what is missing."""
        return cursor is None or self.type in events.STATES or self.follows(cursor)


class HoleError(Exception):
    """The gateway keeps leaving events out."""


class Follower:
    """Iterates over a run's events, each once and in order, until `run.finished`; survives lost connections.

    `on_trouble` is told why it waits, and None as soon as events flow again.
    """

    def __init__(
        self,
        gateway: Gateway,
        run_id: str,
        *,
        after: str | None = None,
        on_trouble: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self.run_id = run_id
        self.cursor = None if after is None else cursors.parse(after)
        self._gateway = gateway
        self._on_trouble = on_trouble
        self._connected = False
        self._holes = 0
        self._delay_s = FIRST_DELAY_S
        self._over = False

    def __iter__(self) -> Iterator[Event]:
        while not self._over:
            try:
                yield from self._connection()
            except (UnreachableError, SSEError) as error:
                self._pause(str(error))
            except GatewayError as error:
                if not error.is_temporary:
                    raise
                self._connected = True
                self._pause(str(error))
            else:
                if not self._over:
                    self._pause("the stream ended before the run did")

    def _connection(self) -> Iterator[Event]:
        """Yield what one connection brings."""
        after = None if self.cursor is None else str(self.cursor)
        with self._gateway.events(self.run_id, after=after) as stream:
            self._connected = True
            if stream is None:
                self._over = True
                return
            for sent in stream:
                event = _event(sent)
                if event is None or event.cursor == self.cursor:
                    continue
                if not event.may_follow(self.cursor):
                    self._holes += 1
                    if self._holes > HOLES:
                        raise HoleError(f"Events between {self.cursor} and {event.cursor} never came.")
                    return
                self._take(event)
                yield event

    def _take(self, event: Event) -> None:
        self.cursor = event.cursor
        self._over = event.type == Type.FINISHED
        self._holes = 0
        self._delay_s = FIRST_DELAY_S
        self._on_trouble(None)

    def _pause(self, why: str) -> None:
        if not self._connected:
            raise UnreachableError(why)  # never reached: more likely a wrong address than a restart
        self._on_trouble(why)
        time.sleep(self._delay_s * random.uniform(0.5, 1.5))
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)


def _event(sent: ServerSentEvent) -> Event | None:
    if not sent.id or not sent.data:
        return None
    return Event(cursor=cursors.parse(sent.id), type=sent.event, data=json.loads(sent.data))
