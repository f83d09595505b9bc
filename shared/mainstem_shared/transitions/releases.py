"""The transition of a finished run that the archive has: release. And the read that comes before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mainstem_shared.model.verification import Dump
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import dumps
from mainstem_shared.transitions.results import Gone

RELEASE: Final = Script("release")


async def release(store: Store, run_id: str, *, nonce: str, hot_ms: int) -> bool:
    """Let go of a finished run; False if the store has another end of it than the archive."""
    answer = await store.verb(RELEASE, *_call(run_id, nonce, hot_ms))
    return answer[0] == b"released"


def _call(run_id: str, nonce: str, hot_ms: int) -> tuple[Sequence[str], Sequence[object]]:
    k = keys.run(run_id)
    return (k.record, k.log, k.thread_runs, k.recent, k.compact), (run_id, nonce, hot_ms)


async def release_all(store: Store, ended: Sequence[tuple[str, str]], *, hot_ms: int) -> list[bool]:
    """Let go of finished runs, by id and the nonce of their end; tells for each whether it was this end."""
    calls = [_call(run_id, nonce, hot_ms) for run_id, nonce in ended]
    answers = await store.verbs(RELEASE, calls)
    return [answer[0] == b"released" for answer in answers]


async def dump_many(store: Store, run_ids: Sequence[str]) -> list[Dump | Gone]:
    """Read everything that is stored of some runs, each as of one moment, in one round trip."""
    named = [keys.run(run_id) for run_id in run_ids]
    replies = await store.verbs(dumps.DUMP, [((k.record, k.log, k.snapshot), ()) for k in named])
    return [dumps.dumped(run_id, reply) for run_id, reply in zip(run_ids, replies, strict=True)]
