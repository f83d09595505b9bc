"""Indexes list runs: unfinished, recent, to be compacted, of an owner, of a user, in a quota.

Each bucket has its own index of what is unfinished, recent and to be compacted: verbs write them as they
change a run, and what is here looks after them. An owner's and a user's lists are in slots of their own: an
entry of these is written before the transition that needs it and removed after the one that ends the need.
No index is the truth: it says which records to look at, and an entry too many is dropped by whoever reads it.
Nobody else writes them; `operations.performing` calls this beside each transition.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mainstem_shared import transitions
from mainstem_shared.model import jsontext
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

CHECKS: Final = "checks"
COMPACTIONS: Final = "compactions"
CALLBACKS: Final = "callbacks"
"""The kinds of work that fall due, as metrics name them: checks of unfinished runs, dropping of deltas,
telling somebody."""
STALE: Final = 10
"""How many of a user's oldest entries a start looks at: more than it adds, so that lists stay short."""


BUCKETS_AT_ONCE: Final = 20
"""How many buckets a slice of due work is taken from."""
HEADS_AT_ONCE: Final = 256
"""How many indexes are asked in one round trip: packing and reading take half a millisecond."""


@dataclass(slots=True, kw_only=True)
class Backlog:
    """What is due of one kind of work, as of one moment; `Indexes.take` takes from it."""

    count: int = 0
    since_s: float = 0.0
    """For how many seconds the oldest entry has been due."""
    indexes: list[str] = field(default_factory=list[str])
    """The indexes with due entries, in random order: sweepers that look at once begin at different ones."""
    filled: list[str] = field(default_factory=list[str])
    """The indexes with any entries, due or not; whoever was told what is due by another is not told these."""

    def add(self, index: str, *, count: int, since_s: float) -> None:
        """Add an index's due entries."""
        self.count += count
        self.since_s = max(self.since_s, since_s)
        self.indexes.insert(random.randint(0, len(self.indexes)), index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexes:
    """The indexes of one store. Every method may be repeated; each may raise StoreUnavailable."""

    store: Store
    settings: Settings

    # -- before a transition: whoever heals a crash must find the run

    async def add(self, spec: Spec) -> None:
        """List a run that is about to be started among its user's."""
        mine, ttl_ms, born = (
            keys.user_runs(spec.tenant, spec.user_id), self.settings.thread_ttl_ms, spec.created_ms,
        )  # fmt: skip
        *_, oldest = await self.store.commands(
            ("ZADD", mine, "NX", born, spec.run_id),
            ("PEXPIRE", mine, ttl_ms, "NX"),
            ("PEXPIRE", mine, ttl_ms, "GT"),  # one that waits for a human for longer keeps its list alive
            ("ZRANGEBYSCORE", mine, "-inf", born - ttl_ms, "LIMIT", 0, STALE),
        )
        if oldest:
            await self._drop_expired(mine, oldest)

    async def _drop_expired(self, index: str, listed: list[bytes]) -> None:
        """Take runs off a list that are not there any more: it would grow for ever under steady starts."""
        commands = (("EXISTS", keys.run(raw.decode()).record) for raw in listed)
        there = await self.store.commands(*commands)
        gone = [raw.decode() for raw, exists in zip(listed, there, strict=True) if not exists]
        await drop(self.store, index, gone)

    async def own(self, owner: str, run_id: str, *, patience_s: float | None = None) -> None:
        """List a run among those of a process, which is about to take control of it."""
        key = keys.owned(owner)
        await self.store.commands(
            ("SADD", key, run_id), ("PEXPIRE", key, self.settings.live_ttl_ms), patience_s=patience_s
        )

    # -- after a transition

    async def disown(self, owner: str, run_id: str) -> None:
        """Take a run off the list of a process that does not have it (any more)."""
        await self.store.command("SREM", keys.owned(owner), run_id)

    async def refused(self, spec: Spec) -> None:
        """Take a run off its user's lists that was refused."""
        await self.deleted(spec.run_id, tenant=spec.tenant, user_id=spec.user_id)

    async def deleted(self, run_id: str, *, tenant: str, user_id: str | None) -> None:
        """Take a run off its user's lists that was deleted; of a damaged one the user may not be known."""
        if user_id is not None:
            lists = (keys.user_runs(tenant, user_id), keys.user_slots(tenant, user_id))
            await self.store.commands(*(("ZREM", index, run_id) for index in lists))

    async def paused(self, spec: Spec, *, owner: str, expires_ms: int) -> None:
        """Keep a paused run on its user's list; it has no owner and holds no slot meanwhile."""
        listed_ms = max(0, expires_ms - now_ms()) + self.settings.thread_ttl_ms
        await self.store.commands(
            ("SREM", keys.owned(owner), spec.run_id),
            ("PEXPIRE", keys.user_runs(spec.tenant, spec.user_id), listed_ms, "GT"),
        )
        await self.release_slot(spec)

    async def finished(self, run_id: str, *, owner: str = "") -> None:
        """Take a run that is over off its owner's list, and give its slot back."""
        if owner:
            await self.disown(owner, run_id)
        if self.settings.max_active_runs_per_user:
            record = await transitions.read_fields(self.store, run_id, Record.spec)
            if not isinstance(record, transitions.Gone):
                await self.release_slot(record.spec)

    # -- a user's slots (see `quotas`)

    async def release_slot(self, spec: Spec) -> None:
        """Give a run's slot back. A slot that stays is found when its user is refused."""
        if self.settings.max_active_runs_per_user:
            await drop_slots(self.store, spec, [spec.run_id])

    # -- what sweepers and owners read

    async def unfinished(self, filled: Sequence[str], *, limit: int) -> list[str]:
        """Return unfinished runs of these indexes, which `due` found filled."""
        found = await self.store.commands(*(("ZRANGE", index, 0, limit - 1) for index in filled))
        return [raw.decode() for members in found for raw in members][:limit]

    async def check_at(self, run_id: str, at_ms: int) -> None:
        """Have an unfinished run checked then, whenever that was due before."""
        await self.store.command("ZADD", keys.run(run_id).active, "XX", at_ms, run_id)

    async def not_there(self, run_id: str) -> None:
        """Take a run off the unfinished ones whose record is not there, or is over."""
        await self.store.command("ZREM", keys.run(run_id).active, run_id)

    async def owned_by(self, owner: str) -> list[str]:
        """Return the runs that a process listed as its own, in order of their ids."""
        return sorted(raw.decode() for raw in await self.store.command("SMEMBERS", keys.owned(owner)))

    async def drop_owner(self, owner: str) -> None:
        """Drop the list of a dead process, once nothing is left on it."""
        await self.store.command("DEL", keys.owned(owner))

    async def due(self) -> dict[str, Backlog]:
        """Return how much work is due by kind, since when, and in which buckets of servers that are there."""
        now = now_ms()
        places = [
            place
            for listed in keys.every_index()
            for place in ((CHECKS, listed.active), (COMPACTIONS, listed.compact))
        ]
        places += [(CALLBACKS, index) for index in keys.CALLBACKS]
        there = await self.store.there([index for _, index in places])
        places = [place for place, is_there in zip(places, there, strict=True) if is_there]
        since = await self._heads(places)
        due = [place for place, at in since.items() if at <= now]
        counts = await self.store.commands(*(("ZCOUNT", index, "-inf", now) for _, index in due))
        backlogs = {kind: Backlog() for kind in (CHECKS, COMPACTIONS, CALLBACKS)}
        for kind, index in since:
            backlogs[kind].filled.append(index)
        for (kind, index), count in zip(due, counts, strict=True):
            backlogs[kind].add(index, count=count, since_s=(now - since[kind, index]) / 1000)
        return backlogs

    async def _heads(self, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Return when the earliest entry of each index is due (ms), by kind and index; without empty ones."""
        since: dict[tuple[str, str], int] = {}
        for first in range(0, len(places), HEADS_AT_ONCE):
            some = places[first : first + HEADS_AT_ONCE]
            heads = await self.store.commands(*(("ZRANGE", index, 0, 0, "WITHSCORES") for _, index in some))
            since |= {place: int(float(head[1])) for place, head in zip(some, heads, strict=True) if head}
        return since

    async def share_due(self, due: dict[str, Backlog], *, ttl_ms: int) -> None:
        """Share with other sweepers what is due, so that they need not ask thousands of indexes."""
        shared = {kind: [backlog.count, backlog.since_s, backlog.indexes] for kind, backlog in due.items()}
        await self.store.command("SET", keys.DUE, jsontext.dumps(shared), "PX", ttl_ms, large=True)

    async def shared_due(self) -> dict[str, Backlog] | None:
        """Return what the elected sweeper found due; None if nobody shared it, or another version did."""
        shared = await self.store.command("GET", keys.DUE, large=True)
        if shared is None:
            return None
        try:
            return {
                kind: Backlog(count=count, since_s=since_s, indexes=random.sample(names, len(names)))
                for kind, (count, since_s, names) in jsontext.loads(shared).items()
            }
        except (ValueError, TypeError, AttributeError):
            return None

    async def take(self, backlog: Backlog, *, limit: int, hold_ms: int) -> list[tuple[str, int]]:
        """Take runs of a backlog that are still due, and since when each is (ms); see the verb `take_due`.

        At most about `limit` of them; none if nothing is left.
        """
        while backlog.indexes:
            some, backlog.indexes = backlog.indexes[:BUCKETS_AT_ONCE], backlog.indexes[BUCKETS_AT_ONCE:]
            each = max(1, limit // len(some))
            found = await transitions.take_due_of(self.store, some, limit=each, hold_ms=hold_ms)
            backlog.indexes += [index for index, taken in zip(some, found, strict=True) if len(taken) == each]
            if any(found):
                return [entry for taken in found for entry in taken]
        return []

    async def drop_unreadable(self, index: str, entry: str) -> None:
        """Take an entry off an index of what is due that names nothing: it would be taken again and again."""
        await self.store.command("ZREM", index, entry)

    async def archived(self, specs: Sequence[Spec]) -> None:
        """Take runs off their users' lists that the archive has: it lists them from now on."""
        mine = ((keys.user_runs(spec.tenant, spec.user_id), spec.run_id) for spec in specs)
        await self.store.commands(*(("ZREM", index, run_id) for index, run_id in mine), large=True)

    async def archive_at(self, run_ids: Sequence[str], at_ms: int) -> None:
        """Have finished runs that wait for the archive tried again then."""
        await self.store.commands(
            *(("ZADD", keys.run(run_id).compact, "XX", at_ms, run_id) for run_id in run_ids)
        )

    async def to_compact(self, *, limit: int) -> tuple[int, list[str]]:
        """Return how many finished runs are to be compacted, or archived, and some of them."""
        lists = [listed.compact for listed in keys.every_index()]
        counts = await self.store.commands(*(("ZCARD", listed) for listed in lists))
        full = [listed for listed, count in zip(lists, counts, strict=True) if count]
        found = await self.store.commands(*(("ZRANGE", listed, 0, 9) for listed in full), large=True)
        return sum(counts), [raw.decode() for members in found for raw in members][:limit]

    async def drop_old(self, before_ms: int) -> None:
        """Take runs off the recent ones that were created before then: their retention is over."""
        await self.store.commands(
            *(("ZREMRANGEBYSCORE", bucket.recent, "-inf", before_ms) for bucket in keys.every_index())
        )

    # -- a user's runs

    async def of_user(self, tenant: str, user_id: str) -> dict[str, int]:
        """Return a user's runs by id, and when each was created (ms)."""
        key = keys.user_runs(tenant, user_id)
        flat = await self.store.command("ZRANGE", key, 0, -1, "WITHSCORES", large=True)
        return {raw.decode(): int(at) for raw, at in zip(flat[::2], flat[1::2], strict=True)}

    async def drop_of_user(self, tenant: str, user_id: str, run_ids: Sequence[str]) -> None:
        """Take runs off a user's list whose records are not there."""
        await drop(self.store, keys.user_runs(tenant, user_id), run_ids)


async def drop(store: Store, index: str | None, run_ids: Sequence[str]) -> None:
    """Remove entries of an index, as whoever reads it does with those of runs that are gone.

    Without an index: of the recent runs of their buckets.
    """
    await store.commands(
        *(("ZREM", keys.run(run_id).recent if index is None else index, run_id) for run_id in run_ids)
    )


async def drop_slots(store: Store, spec: Spec, run_ids: Sequence[str]) -> None:
    """Give slots of a run's user back."""
    await drop(store, keys.user_slots(spec.tenant, spec.user_id), run_ids)
