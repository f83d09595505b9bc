"""Builds every key of the store; `docs/architecture.md` has the same table.

A run's keys carry its thread's tag in braces, so that a verb touches one Cluster slot.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mainstem_shared.model import ids

PREFIX: Final = "ms"

ACTIVE: Final = f"{PREFIX}:active"
"""ZSET of unfinished runs; score: when a sweeper looks next (ms)."""
RECENT: Final = f"{PREFIX}:recent"
"""ZSET of all kept runs; score: creation (ms)."""
COMPACT: Final = f"{PREFIX}:compact"
"""ZSET of finished runs whose deltas are still kept; score: when to drop them (ms)."""
WORKERS: Final = f"{PREFIX}:workers"
"""ZSET of process incarnations that may own runs; score: last heartbeat (ms)."""
ENGINES: Final = f"{PREFIX}:engines"
"""HASH engine name → its JSON input schema, as announced by workers."""
SWEEP: Final = f"{PREFIX}:sweep"
"""STRING lock: one sweeper at a time."""
CENSUS: Final = f"{PREFIX}:census"
"""STRING: figures of the whole store, as one sweeper counted them; JSON (`operations.census`)."""
STREAM_SECRET: Final = f"{PREFIX}:stream-secret"
"""STRING: what gateways sign stream tokens with."""


class RunKeys(NamedTuple):
    """The keys of one run and of its thread, all in one slot."""

    record: str
    log: str
    spare: str
    """Where a verb writes a log anew before it replaces it: there only while the verb runs."""
    snapshot: str
    checkpoint: str
    thread: str
    thread_runs: str
    thread_queue: str


def run(run_id: str) -> RunKeys:
    """Return the keys that belong to a run id.

    Raises:
        NotFound: it cannot be a run id.
    """
    tag, unique = ids.split(run_id)
    slot = f"{PREFIX}:{{{tag}}}"
    own = f"{slot}:{unique}"
    return RunKeys(
        record=f"{own}:record",
        log=f"{own}:log",
        spare=f"{own}:spare",
        snapshot=f"{own}:snapshot",
        checkpoint=f"{own}:checkpoint",
        thread=f"{slot}:thread",
        thread_runs=f"{slot}:runs",
        thread_queue=f"{slot}:queue",
    )


def thread_runs(tenant: str, thread_id: str) -> str:
    """ZSET of a thread's runs; score: creation (ms)."""
    return f"{PREFIX}:{{{ids.thread_tag(tenant, thread_id)}}}:runs"


def thread(tenant: str, thread_id: str) -> str:
    """HASH of a thread: `active`, the run that holds it."""
    return f"{PREFIX}:{{{ids.thread_tag(tenant, thread_id)}}}:thread"


def idempotency(run_id: str, digest: str) -> str:
    """STRING `<run id> <body digest>` of a start with an Idempotency-Key; in the thread's slot."""
    tag, _ = ids.split(run_id)
    return f"{PREFIX}:{{{tag}}}:idem:{digest}"


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


def readiness(probe: str) -> str:
    """STRING, HASH or ZSET, in turn, that one check of readiness writes; each check has keys of its own."""
    return f"{PREFIX}:{{p:{probe}}}"


def user_runs(tenant: str, user_id: str) -> str:
    """ZSET of a user's runs; score: creation (ms)."""
    return f"{PREFIX}:{{u:{ids.user_tag(tenant, user_id)}}}:runs"


def user_slots(tenant: str, user_id: str) -> str:
    """ZSET of a user's slots: runs that count against the concurrency limit; score: taken at (ms)."""
    return f"{PREFIX}:{{u:{ids.user_tag(tenant, user_id)}}}:slots"
