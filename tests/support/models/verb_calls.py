"""Short calls of the verbs, with what a test does not care about filled in; and looks at what they left."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.model import ids, jsontext, runs
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.specs import spec

LIVE_MS = 600_000
THREAD_MS = 900_000
RETENTION_MS = 300_000
STATE: dict[str, Any] = {"content": [], "steps": [], "usage": None, "title": None, "action": None}

_numbers = itertools.count()


def without_gap() -> str:
    """Return a nonce without a gap: epochs then follow each other, and tests can name them."""
    return f"n{next(_numbers)}-{ids.token()}"


def new_run(thread: str | None = None) -> str:
    """Return the id of a run on `thread`, or on a thread of its own."""
    return ids.run_id("default", thread or f"thread-{next(_numbers)}", uuid.uuid4())


async def start(
    store: Store,
    run_id: str,
    *,
    nonce: str | None = None,
    if_active: runs.IfActive = "reject",
    idempotency: tuple[str, str] | None = None,
    run_input: bytes = b'{"a":1}',
) -> Any:
    return await transitions.start(
        store,
        spec(run_id, created_ms=now_ms()),
        run_input,
        nonce=nonce or without_gap(),
        if_active=if_active,
        live_ttl_ms=LIVE_MS,
        thread_ttl_ms=THREAD_MS,
        idempotency=idempotency,
    )


async def claim(store: Store, run_id: str, *, nonce: str | None = None, owner: str = "me") -> Any:
    return await transitions.claim(
        store, run_id, nonce=nonce or without_gap(), owner=owner, task_id="task", live_ttl_ms=LIVE_MS
    )


def controlled(claimed: transitions.Claimed, *, owner: str = "me") -> transitions.Control:
    """Return the control that a claim gave."""
    run_id = claimed.spec.run_id
    return transitions.Control(run_id=run_id, epoch=claimed.epoch, owner=owner, nonce=claimed.nonce)


async def running(store: Store, *, thread: str | None = None, owner: str = "me") -> transitions.Control:
    """Start and claim a run."""
    run_id = new_run(thread)
    assert isinstance(await start(store, run_id), transitions.Started)
    claimed = await claim(store, run_id, owner=owner)
    assert isinstance(claimed, transitions.Claimed)
    return controlled(claimed, owner=owner)


async def seal(
    store: Store, control: transitions.Control, *, nonce: str | None = None, sealer: str = "other"
) -> Any:
    return await transitions.seal(
        store,
        control.run_id,
        nonce=nonce or without_gap(),
        sealer=sealer,
        epoch=control.epoch,
        cause="test",
        control=control.nonce,
    )


async def finish(
    store: Store,
    control: transitions.Control,
    *,
    top: Cursor | None = None,
    nonce: str | None = None,
    reason: Reason = Reason.COMPLETED,
    state: dict[str, Any] | None = None,
    error: runs.ErrorInfo | None = None,
) -> Any:
    return await transitions.finish(
        store,
        control,
        nonce=nonce or without_gap(),
        top=top or Cursor(control.epoch, 0),
        reason=reason,
        state=state or STATE,
        error=error,
        retention_ms=RETENTION_MS,
        compact_after_ms=60_000,
    )


async def snapshot(store: Store, control: transitions.Control, cursor: Cursor, state: Any = None) -> bool:
    return await transitions.snapshot(
        store, control, cursor=cursor, state=jsontext.dumps(state or STATE), live_ttl_ms=LIVE_MS
    )


async def handover(
    store: Store,
    control: transitions.Control,
    *,
    top: Cursor | None = None,
    nonce: str | None = None,
    lost: bool = False,
) -> Any:
    return await transitions.handover(
        store,
        control,
        nonce=nonce or without_gap(),
        top=top or Cursor(control.epoch, 0),
        resume_as="run.restarted",
        cause="test",
        state=jsontext.dumps(STATE),
        live_ttl_ms=LIVE_MS,
        lost=lost,
    )


async def resync(store: Store, control: transitions.Control, *, nonce: str | None = None) -> Any:
    return await transitions.resync(
        store, control, nonce=nonce or without_gap(), state=jsontext.dumps(STATE), live_ttl_ms=LIVE_MS
    )


async def append(store: Store, control: transitions.Control, *texts: str, seq: int = 1) -> Cursor:
    """Append deltas as the writer spells them; return the last cursor."""
    for number, text in enumerate(texts, seq):
        data = jsontext.dumps({"part": 0, "text": text})
        await store.client.xadd(
            keys.run(control.run_id).log, {"d": data}, id=f"{control.epoch}-{number}", nomkstream=True
        )
    return Cursor(control.epoch, seq + len(texts) - 1)


async def record(store: Store, run_id: str) -> dict[str, str]:
    """A run's record as it is in the store."""
    fields = await store.client.hgetall(keys.run(run_id).record)
    return {name.decode(): value.decode() for name, value in fields.items()}


async def everything(store: Store) -> dict[bytes, Any]:
    """Every key of the store with all it holds. (Not DUMP: a hash's order there changes by itself.)"""
    found = {key async for key in store.client.scan_iter(count=1000)}
    return {key: await _content(store.client, key) for key in sorted(found)}


async def _content(client: Any, key: bytes) -> Any:
    match await client.type(key):
        case b"hash":
            return await client.hgetall(key)
        case b"stream":
            info = await client.xinfo_stream(key)
            return await client.xrange(key), info["last-generated-id"], info["entries-added"]
        case b"list":
            return await client.lrange(key, 0, -1)
        case b"zset":
            return await client.zrange(key, 0, -1, withscores=True)
        case b"set":
            return await client.smembers(key)
        case _:
            return await client.get(key)


async def log_types(store: Store, run_id: str) -> list[str]:
    """`<id> <type>` of each entry of a run's log."""
    entries = await store.client.xrange(keys.run(run_id).log)
    return [f"{raw_id.decode()} {next(iter(fields)).decode()}" for raw_id, fields in entries]
