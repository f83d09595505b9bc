"""Keeps answers in their provider's words for later turns of a thread: thoughts, signatures, secrets.

A thread's messages are for people and for every model; what only one provider understands stands in the
engine's memory of the thread, by run. A turn that is not there, or no more, is told as everybody sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.model import jsontext, transcripts
from mainstem_tasks.engines.turns.endpoints import Chat, Endpoint
from mainstem_tasks.sdk.context import RunContext

logger = logging.getLogger(__name__)

TURNS: Final = 100
"""How many turns of a thread are kept: the latest."""
BYTES: Final = 256 * 1024
"""How large a turn may be that is kept."""


async def earlier(run: RunContext[Any], endpoint: Endpoint) -> list[Chat]:
    """Return what was said on the thread before, in the provider's own words where they are known."""
    if not endpoint.own:
        return await run.history()
    kept = await run.memory.items(_prefix(endpoint))
    said: list[Chat] = []
    for message in await run.messages():
        known = kept.get(_prefix(endpoint) + message.run_id) if message.role == "assistant" else None
        said += transcripts.chat([message]) if known is None else jsontext.loads(known)
    return said


async def keep(run: RunContext[Any], endpoint: Endpoint, messages: Sequence[Chat]) -> None:
    """Keep a run's answers, all of whose calls have results; commits with the run's end."""
    if not endpoint.own or not run.input.history:
        return
    if not any(endpoint.own in message for message in messages):
        return
    data = jsontext.dumps(list(messages))
    if len(data) > BYTES:
        return
    prefix = _prefix(endpoint)
    kept = list(await run.memory.items(prefix))
    for key in kept[: max(0, len(kept) + 1 - TURNS)]:
        await run.memory.delete(key)
    try:
        await run.memory.put(prefix + run.run_id, data)
    except errors.MemoryTooLarge as error:
        noted = {"action": "turn_not_kept", "run_id": run.run_id, "error": str(error)}
        logger.warning("an answer is not kept in its provider's words", extra=noted)


def _prefix(endpoint: Endpoint) -> str:
    return f"turns/{endpoint.kind}/"
