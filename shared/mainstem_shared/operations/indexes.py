"""The indexes that list runs: what is unfinished, recent, to be compacted, an owner's, a user's, in a quota.

The only module that writes them. An index is never the truth: it says which records to look at. An entry is
therefore written before the transition that needs it and removed after the one that ends the need; an entry
too many is dropped by whoever reads it. `operations.control` calls this beside each transition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mainstem_shared import transitions
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

FIRST_CHECK_MS: Final = 5000
"""When a sweeper first checks a new run: long after a healthy start is through with publishing."""
CHECKS: Final = "checks"
COMPACTIONS: Final = "compactions"
"""The kinds of work that fall due, as metrics name them: checks of unfinished runs, dropping of deltas."""
STALE: Final = 10
"""How many of a user's oldest entries a start looks at: more than it adds, so that lists stay short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexes:
    """The indexes of one store. Every method may be repeated; each may raise StoreUnavailable."""

    store: Store
    settings: Settings

    # -- before a transition: whoever heals a crash must find the run

    async def add(self, spec: Spec) -> None:
        """List a run that is about to be started, where sweepers, operators and its user find it."""
        mine, ttl_ms, born = (
            keys.user_runs(spec.tenant, spec.user_id), self.settings.thread_ttl_ms, spec.created_ms,
        )  # fmt: skip
        *_, oldest = await self.store.commands(
            ("ZADD", keys.ACTIVE, "NX", born + FIRST_CHECK_MS, spec.run_id),
            ("ZADD", keys.RECENT, "NX", born, spec.run_id),
            ("ZADD", mine, "NX", born, spec.run_id),
            ("PEXPIRE", mine, ttl_ms, "NX"),
            ("PEXPIRE", mine, ttl_ms, "GT"),  # one that waits for a human for longer keeps its list alive
            ("ZRANGEBYSCORE", mine, "-inf", born - ttl_ms, "LIMIT", 0, STALE),
        )
        if oldest:
            await self._drop_expired(mine, oldest)

    async def _drop_expired(self, index: str, listed: list[bytes]) -> None:
        """Take runs off a list that are not there any more: it would grow for ever under steady starts."""
        looks = (("EXISTS", keys.run(raw.decode()).record) for raw in listed)
        there = await self.store.commands(*looks)
        gone = [raw.decode() for raw, exists in zip(listed, there, strict=True) if not exists]
        await drop(self.store, index, gone)

    async def check_within(self, run_id: str, after_ms: int) -> None:
        """Have a sweeper check an unfinished run within so many milliseconds, if it would not sooner."""
        await self.store.command("ZADD", keys.ACTIVE, "XX", "LT", now_ms() + after_ms, run_id)

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

    async def unborn(self, spec: Spec) -> None:
        """Take a run off every list that was refused."""
        await self.deleted(spec.run_id, tenant=spec.tenant, user_id=spec.user_id)

    async def deleted(self, run_id: str, *, tenant: str, user_id: str | None) -> None:
        """Take a run off every list that was deleted; of a damaged one the user may not be known."""
        lists = [keys.ACTIVE, keys.RECENT, keys.COMPACT]
        if user_id is not None:
            lists += [keys.user_runs(tenant, user_id), keys.user_slots(tenant, user_id)]
        await self.store.commands(*(("ZREM", index, run_id) for index in lists))

    async def paused(self, spec: Spec, *, owner: str, expires_ms: int) -> None:
        """Have a paused run checked when its action expires; it has no owner and holds no slot meanwhile."""
        listed_ms = max(0, expires_ms - now_ms()) + self.settings.thread_ttl_ms
        await self.store.commands(
            ("ZADD", keys.ACTIVE, "XX", expires_ms, spec.run_id),
            ("SREM", keys.owned(owner), spec.run_id),
            ("PEXPIRE", keys.user_runs(spec.tenant, spec.user_id), listed_ms, "GT"),
        )
        await self.release_slot(spec)

    async def finished(self, run_id: str, *, owner: str = "") -> None:
        """Take a run off the lists of unfinished ones, and have its deltas dropped later."""
        due = now_ms() + int(self.settings.compact_after_s * 1000)
        commands = [("ZADD", keys.COMPACT, due, run_id), ("ZREM", keys.ACTIVE, run_id)]
        if owner:
            commands.append(("SREM", keys.owned(owner), run_id))
        await self.store.commands(*commands)
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

    async def take_due(self, *, limit: int, hold_ms: int) -> list[tuple[str, int]]:
        """Take unfinished runs that are due for a check, and since when (ms); see the verb `take_due`."""
        return await transitions.take_due(self.store, keys.ACTIVE, limit=limit, hold_ms=hold_ms)

    async def unfinished(self, *, limit: int) -> list[str]:
        """Return unfinished runs, those whose checks are due first."""
        members = await self.store.command("ZRANGE", keys.ACTIVE, 0, limit - 1, large=True)
        return [raw.decode() for raw in members]

    async def check_at(self, run_id: str, at_ms: int) -> None:
        """Have an unfinished run checked then, whenever that was due before."""
        await self.store.command("ZADD", keys.ACTIVE, "XX", at_ms, run_id)

    async def not_there(self, run_id: str) -> None:
        """Take a run off the unfinished ones whose record is not there."""
        await self.store.command("ZREM", keys.ACTIVE, run_id)

    async def owned_by(self, owner: str) -> list[str]:
        """Return the runs that a process listed as its own, in order of their ids."""
        return sorted(raw.decode() for raw in await self.store.command("SMEMBERS", keys.owned(owner)))

    async def bury(self, owner: str) -> None:
        """Drop the list of a dead process, once nothing is left on it."""
        await self.store.command("DEL", keys.owned(owner))

    async def take_compactable(self, *, limit: int, hold_ms: int) -> list[tuple[str, int]]:
        """Take finished runs whose deltas are to be dropped by now, and since when (ms)."""
        return await transitions.take_due(self.store, keys.COMPACT, limit=limit, hold_ms=hold_ms)

    async def compacted(self, run_ids: Sequence[str]) -> None:
        """Take runs off those whose deltas are to be dropped."""
        await drop(self.store, keys.COMPACT, run_ids)

    async def backlog(self) -> dict[str, tuple[int, float]]:
        """Return how much work is due by kind, and for how many seconds the oldest of it has been."""
        now, indexes = now_ms(), (keys.ACTIVE, keys.COMPACT)
        counts = (("ZCOUNT", index, "-inf", now) for index in indexes)
        oldest = (("ZRANGE", index, 0, 0, "WITHSCORES") for index in indexes)
        *replies, active, compact = await self.store.commands(*counts, *oldest)
        since = [max(0.0, (now - int(float(flat[1]))) / 1000) if flat else 0.0 for flat in (active, compact)]
        return dict(zip((CHECKS, COMPACTIONS), zip(replies, since, strict=True), strict=True))

    async def drop_old(self, before_ms: int) -> None:
        """Take runs off the recent ones that were created before then: their retention is over."""
        await self.store.command("ZREMRANGEBYSCORE", keys.RECENT, "-inf", before_ms)

    # -- a user's runs

    async def of_user(self, tenant: str, user_id: str) -> dict[str, int]:
        """Return a user's runs by id, and when each was created (ms)."""
        key = keys.user_runs(tenant, user_id)
        flat = await self.store.command("ZRANGE", key, 0, -1, "WITHSCORES", large=True)
        return {raw.decode(): int(at) for raw, at in zip(flat[::2], flat[1::2], strict=True)}

    async def drop_of_user(self, tenant: str, user_id: str, run_ids: Sequence[str]) -> None:
        """Take runs off a user's list whose records are not there."""
        await drop(self.store, keys.user_runs(tenant, user_id), run_ids)


async def drop(store: Store, index: str, run_ids: Sequence[str]) -> None:
    """Remove entries of an index, as whoever reads it does with those of runs that are gone."""
    if run_ids:
        await store.command("ZREM", index, *run_ids)


async def drop_slots(store: Store, spec: Spec, run_ids: Sequence[str]) -> None:
    """Give slots of a run's user back."""
    await drop(store, keys.user_slots(spec.tenant, spec.user_id), run_ids)
