"""The transition `release` removes an archived run from the store; `dump_many` reads runs before that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mainstem_shared.model.verification import Dump
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import dumps
from mainstem_shared.transitions.results import Gone

RELEASE: Final = Script("release")


OWNER_MS: Final = 60_000
"""How long a thread without runs says whose it was: starts that asked the archive before are over then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of a run that the archive has, with the description that it has; b'' where there is none."""

    run_id: str
    user_id: str
    nonce: str
    description: tuple[bytes, bytes, bytes] = (b"", b"", b"")


async def release(store: Store, ended: Ended, *, hot_ms: int) -> bool:
    """Let go of a finished run; False if the store has another end, or another description, of it."""
    answer = await store.verb(RELEASE, *_call(ended, hot_ms))
    return answer[0] == b"released"


def _call(ended: Ended, hot_ms: int) -> tuple[Sequence[str], Sequence[object]]:
    k = keys.run(ended.run_id)
    named = (k.record, k.log, k.thread, k.thread_runs, k.recent, k.compact)
    about = (ended.run_id, ended.nonce, *ended.description)
    return named, (*about, hot_ms, ended.user_id, max(hot_ms, OWNER_MS))


async def release_all(store: Store, ended: Sequence[Ended], *, hot_ms: int) -> list[bool]:
    """Let go of finished runs; tells for each whether the archive has all of it."""
    answers = await store.verbs(RELEASE, [_call(end, hot_ms) for end in ended])
    return [answer[0] == b"released" for answer in answers]


async def dump_many(store: Store, run_ids: Sequence[str]) -> list[Dump | Gone]:
    """Read everything that is stored of some runs, each as of one moment, in one round trip."""
    named = [keys.run(run_id) for run_id in run_ids]
    replies = await store.verbs(dumps.DUMP, [((k.record, k.log, k.snapshot), ()) for k in named])
    return [dumps.dumped(run_id, reply) for run_id, reply in zip(run_ids, replies, strict=True)]
