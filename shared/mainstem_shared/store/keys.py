"""Builds every key of the store; `docs/architecture.md` has the same table.

A run's keys, and the indexes that list it, carry its bucket's tag in braces (`model.buckets`), so that a verb
touches one Cluster slot.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mainstem_shared.model import buckets, digests, ids
from mainstem_shared.model.memories import Changes

PREFIX: Final = "ms"

WORKERS: Final = f"{PREFIX}:workers"
"""ZSET of process incarnations that may own runs; score: last heartbeat (ms)."""
ENGINES: Final = f"{PREFIX}:engines"
"""HASH engine name → its JSON input schema, as announced by workers."""
SWEEP: Final = f"{PREFIX}:sweep"
"""STRING lock: one sweeper at a time."""
DUE: Final = f"{PREFIX}:due"
"""STRING: which indexes the elected sweeper found due entries in; JSON (`operations.indexes`)."""
CENSUS: Final = f"{PREFIX}:census"
"""STRING: figures of the whole store, as one sweeper counted them; JSON (`operations.census`)."""
SHARD: Final = f"{PREFIX}:shard"
"""STRING on each static shard: its place, and the map of all buckets; JSON (`store.shard_maps`)."""
SHARD_MOVER: Final = f"{PREFIX}:shard:mover"
"""STRING with TTL on each static shard: who moves buckets now (`store.shard_moves`)."""
STREAM_SECRET: Final = f"{PREFIX}:stream-secret"
"""STRING: what gateways sign stream tokens with."""


class IndexKeys(NamedTuple):
    """The indexes of one bucket, in the slot of the runs that they list."""

    active: str
    """ZSET of unfinished runs; score: when a sweeper looks next (ms)."""
    recent: str
    """ZSET of all kept runs; score: creation (ms)."""
    compact: str
    """ZSET of finished runs whose deltas are still kept; score: when to drop them (ms)."""


class RunKeys(NamedTuple):
    """The keys of one run and of its thread, and the indexes that list it, all in one slot."""

    record: str
    log: str
    spare: str
    """Where a verb writes a log anew before it replaces it: there only while the verb runs."""
    snapshot: str
    checkpoint: str
    effects: str
    callbacks: str
    """What is to be told about the run; it outlives a run that is deleted."""
    thread: str
    thread_runs: str
    thread_queue: str
    active: str
    recent: str
    compact: str
    callbacks_due: str


def _indexes(tag: str) -> IndexKeys:
    slot = f"{PREFIX}:{{{tag}}}"
    return IndexKeys(active=f"{slot}:active", recent=f"{slot}:recent", compact=f"{slot}:compact")


INDEXES: Final = tuple(_indexes(tag) for tag in buckets.TAGS)
"""The indexes of every bucket, in their order."""


APPENDED: Final = tuple(f"{PREFIX}:{{{tag}}}:appended".encode() for tag in buckets.TAGS)
"""A Cluster's channel of each bucket, on which is said that one of its logs has grown."""
CALLBACKS: Final = tuple(f"{PREFIX}:{{{tag}}}:callbacks" for tag in buckets.TAGS)
"""ZSET by bucket: deliveries that are to be made, `<run id>.<epoch>.<number>`; score: when next (ms)."""


FIRST_INDEXES: Final = IndexKeys(
    active=f"{PREFIX}:active", recent=f"{PREFIX}:recent", compact=f"{PREFIX}:compact"
)
"""The indexes of version 1, which had one of each."""
FIRST_VERSION: Final[set[str]] = set()
"""The tags of threads that are still under the keys of version 1 (`operations.migration` fills it)."""


def every_index() -> tuple[IndexKeys, ...]:
    """Return the indexes of all buckets, and those of version 1 as long as they list a run."""
    return (*INDEXES, FIRST_INDEXES) if FIRST_VERSION else INDEXES


class Prefixes(NamedTuple):
    """What the keys of a thread, and of the indexes that list its runs, begin with."""

    thread: str
    indexes: str


def of_first_version(tag: str) -> Prefixes:
    """Return the prefixes of a thread that version 1 kept."""
    return Prefixes(f"{PREFIX}:{{{tag}}}", PREFIX)


def of_bucket(tag: str) -> Prefixes:
    """Return the prefixes of a thread in its bucket."""
    slot = f"{PREFIX}:{{{buckets.TAGS[buckets.bucket_of(tag)]}}}"
    return Prefixes(f"{slot}:{tag}", slot)


def trend(minute: int) -> str:
    """Return the key of the fleet's figures in a minute since the epoch, a HASH (`operations.trends`)."""
    return f"{PREFIX}:trend:{minute}"


def indexes(bucket: int) -> IndexKeys:
    """Return the indexes of a bucket."""
    return INDEXES[bucket]


def _thread(tag: str) -> str:
    """Return what all keys of a thread begin with."""
    return (of_first_version if tag in FIRST_VERSION else of_bucket)(tag).thread


def run(run_id: str) -> RunKeys:
    """Return the keys that belong to a run id.

    Raises:
        NotFound: it cannot be a run id.
    """
    tag, unique = ids.split(run_id)
    thread = _thread(tag)
    own = f"{thread}:{unique}"
    listed = FIRST_INDEXES if tag in FIRST_VERSION else INDEXES[buckets.bucket_of(tag)]
    return RunKeys(
        record=f"{own}:record",
        log=f"{own}:log",
        spare=f"{own}:spare",
        snapshot=f"{own}:snapshot",
        checkpoint=f"{own}:checkpoint",
        effects=f"{own}:effects",
        thread=f"{thread}:thread",
        thread_runs=f"{thread}:runs",
        thread_queue=f"{thread}:queue",
        active=listed.active,
        recent=listed.recent,
        compact=listed.compact,
        callbacks=f"{of_bucket(tag).thread}:{unique}:callbacks",
        callbacks_due=CALLBACKS[buckets.bucket_of(tag)],
    )


def thread_runs(tenant: str, thread_id: str) -> str:
    """ZSET of a thread's runs; score: creation (ms)."""
    return f"{_thread(ids.thread_tag(tenant, thread_id))}:runs"


def thread(tenant: str, thread_id: str) -> str:
    """HASH of a thread: `active`, the run that holds it."""
    return f"{_thread(ids.thread_tag(tenant, thread_id))}:thread"


def thread_keys(tenant: str, thread_id: str) -> tuple[str, str, str]:
    """Return the keys of a thread itself: its hash, its runs, its queue."""
    prefix = _thread(ids.thread_tag(tenant, thread_id))
    return f"{prefix}:thread", f"{prefix}:runs", f"{prefix}:queue"


def idempotency(run_id: str, digest: str) -> str:
    """STRING `<run id> <body digest>` of a start with an Idempotency-Key; in the thread's slot."""
    tag, _ = ids.split(run_id)
    return f"{_thread(tag)}:idem:{digest}"


def lease(owner: str) -> str:
    """STRING with TTL: the role of the living process incarnation `owner`."""
    return f"{PREFIX}:{{w:{owner}}}:lease"


def owned(owner: str) -> str:
    """SET of the runs that a process incarnation claimed."""
    return f"{PREFIX}:{{w:{owner}}}:runs"


def mailbox(owner: str) -> str:
    """STREAM of what others ask of a process incarnation: stop, input."""
    return f"{PREFIX}:{{w:{owner}}}:mail"


def mail_read(owner: str) -> str:
    """STRING: id of the last message of its mailbox that a process incarnation acted on."""
    return f"{PREFIX}:{{w:{owner}}}:read"


def wake(tailer: str) -> str:
    """STREAM that interrupts a tailer's blocking read when it must follow another key."""
    return f"{PREFIX}:{{t:{tailer}}}:wake"


def appended(run_id: str) -> bytes:
    """Return the name of a Cluster's channel on which is said that a log of the run's bucket has grown."""
    return APPENDED[buckets.bucket_of(run_id)]


def readiness(probe: str, *, tag: str | None = None) -> str:
    """STRING, HASH or ZSET, in turn, that one check of readiness writes; each check has keys of its own.

    `tag`: the hash tag of a server's keys; by default the key's slot is its own.
    """
    return f"{PREFIX}:{{p:{probe}}}" if tag is None else f"{PREFIX}:{{{tag}}}:p:{probe}"


def user_runs(tenant: str, user_id: str) -> str:
    """ZSET of a user's runs; score: creation (ms)."""
    return f"{PREFIX}:{{u:{ids.user_tag(tenant, user_id)}}}:runs"


def user_slots(tenant: str, user_id: str) -> str:
    """ZSET of a user's slots: runs that count against the concurrency limit; score: taken at (ms)."""
    return f"{PREFIX}:{{u:{ids.user_tag(tenant, user_id)}}}:slots"


class AdmissionKeys(NamedTuple):
    """The keys of one queue's window of admitted runs, in a slot of their own."""

    admitted: str
    """ZSET of runs that may be published; score: since when (ms)."""
    waiting: str
    """ZSET of runs that wait for a place; score: their turn."""
    charged: str
    """HASH user's digest → the turn of the user's next run, and the last turn that was admitted."""


def admission(queue: str) -> AdmissionKeys:
    """Return the keys of a queue's window."""
    slot = f"{PREFIX}:{{a:{queue}}}"
    return AdmissionKeys(f"{slot}:admitted", f"{slot}:waiting", f"{slot}:charged")


def pace(name: str) -> str:
    """HASH: how fast the fleet may call a provider or model, and until when not at all; by a digest."""
    return f"{PREFIX}:{{l:{digests.hex_digest(name.encode(errors='surrogatepass'))}}}:pace"


def memory(run_id: str, changes: Changes | None) -> str:
    """HASH: what an engine keeps on the thread of a run; in the thread's slot."""
    return memory_of(run_id, "" if changes is None else changes.engine)


def memory_of(run_id: str, engine: str) -> str:
    """HASH: what this engine keeps on the thread of a run: bytes by key.

    Raises:
        NotFound: it cannot be a run id.
    """
    tag, _ = ids.split(run_id)
    return f"{_thread(tag)}:memory:{engine}"


class EventKeys(NamedTuple):
    """The keys of what a user's runs may wait for under one name; in a slot of their own."""

    events: str
    """HASH event id → when it came (ms), and its payload."""
    waiting: str
    """SET of the runs that wait for one."""


def events(tenant: str, user_id: str, event: str) -> EventKeys:
    """Return the keys of a user's events of this name."""
    slot = f"{PREFIX}:{{e:{ids.event_tag(tenant, user_id, event)}}}"
    return EventKeys(f"{slot}:events", f"{slot}:waiting")


class UploadKeys(NamedTuple):
    """The keys of one upload and of its user's list, in one slot."""

    record: str
    """STRING with TTL: what is known about the file; JSON."""
    listed: str
    """ZSET of the user's uploads; score: creation (ms)."""


def upload(upload_id: str) -> UploadKeys:
    """Return the keys of an upload, whose id has the form of a run's: `<tag of the user's uploads>_<unique>`.

    Raises:
        NotFound: it cannot be one.
    """
    tag, unique = ids.split(upload_id)
    return UploadKeys(f"{PREFIX}:{{f:{tag}}}:{unique}:upload", uploads(tag))


def uploads(tag: str) -> str:
    """ZSET of the uploads of the user with this tag (`ids.uploads_tag`); score: creation (ms)."""
    return f"{PREFIX}:{{f:{tag}}}:uploads"


def run_spending(run_id: str) -> str:
    """HASH: what a run's provider calls cost, and what is reserved for those under way; in the run's slot.

    Raises:
        NotFound: it cannot be a run id.
    """
    return f"{run(run_id).record.removesuffix('record')}spending"


def run_children(run_id: str) -> str:
    """SET: the runs that a run started as its children; in the run's slot.

    Raises:
        NotFound: it cannot be a run id.
    """
    return f"{run(run_id).record.removesuffix('record')}children"


def user_spending(tenant: str, user_id: str, day: str) -> str:
    """HASH: what a user's provider calls cost on a day (UTC, `2026-11-28`), and what is reserved."""
    return f"{PREFIX}:{{u:{ids.user_tag(tenant, user_id)}}}:spending:{day}"


def tenant_spending(tenant: str, day: str) -> str:
    """HASH: what a tenant's provider calls cost on a day, and what is reserved."""
    return f"{PREFIX}:{{s:{ids.thread_tag(tenant, '')}}}:spending:{day}"


def all_spending(day: str) -> str:
    """HASH: what all provider calls of a day cost, for metrics."""
    return f"{PREFIX}:spending:{day}"
