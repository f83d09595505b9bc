"""The mailbox reader delivers every message of the process's mailbox once, in order, on its loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from mainstem_shared.coordination import mailboxes
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import FIRST_DELAY_S, LONGEST_DELAY_S, Store
from mainstem_shared.store.failures import RedisError

logger = logging.getLogger(__name__)

BLOCK_MS: Final = 2000
"""Silence proves nothing: the owner's name may have changed, the connection may be dead."""
STALL_S: Final = 10.0


class MailboxReader:
    """Delivers every message of the current owner's mailbox once, in order, to `deliver`."""

    def __init__(
        self, store: Store, owner: Callable[[], str], deliver: Callable[[mailboxes.Message], None]
    ) -> None:
        self._store = store
        self._owner = owner
        self._deliver = deliver
        self._after: tuple[str, bytes] = ("", b"0-0")

    async def run(self) -> None:
        """Read until cancelled; reconnects by itself and goes on where it was."""
        delay = FIRST_DELAY_S
        while True:
            owner = self._owner()
            try:
                node = await self._store.node_of(keys.mailbox(owner))
                connection = await raw_connections.open_raw_connection(node.url)
                delay = FIRST_DELAY_S
                try:
                    await self._read(connection, owner)
                finally:
                    connection.abort()
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning(
                    "the mailbox cannot be read",
                    extra={"action": "mailbox_away", "error": repr(error)},
                )
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(2 * delay, LONGEST_DELAY_S)
                with contextlib.suppress(RedisError, OSError):
                    await self._store.refresh()

    async def _read(self, connection: raw_connections.RawConnection, owner: str) -> None:
        """Read one owner's mailbox, until the process has another name."""
        if self._after[0] != owner:
            self._after = (owner, b"0-0")
        key, block = keys.mailbox(owner).encode(), b"%d" % BLOCK_MS
        while self._owner() == owner:
            async with asyncio.timeout(STALL_S):
                reply = await connection.call(
                    b"XREAD", b"COUNT", b"100", b"BLOCK", block, b"STREAMS", key, self._after[1]
                )
            if isinstance(reply, Exception):
                raise RedisError(str(reply))
            for _, entries in reply or ():
                for entry_id, fields in entries:
                    self._after = (owner, entry_id)
                    self._take(fields[1])
            if reply:
                await self._note_read(connection, owner)

    async def _note_read(self, connection: raw_connections.RawConnection, owner: str) -> None:
        """Tell senders how far we are; a store that refuses it leaves them in doubt, no more."""
        key = keys.mail_read(owner).encode()
        async with asyncio.timeout(STALL_S):
            await connection.call(b"SET", key, self._after[1], b"EX", b"%d" % mailboxes.TTL_S)

    def _take(self, data: bytes) -> None:
        try:
            self._deliver(mailboxes.MESSAGE.validate_json(data))
        except ValidationError:
            logger.exception("mail that nobody understands", extra={"action": "mail_refused"})
