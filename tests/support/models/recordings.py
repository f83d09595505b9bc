"""What runs leave in the store, as files: taken by `fixtures/record.py`, put back by the tests of later versions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainstem_shared.coordination import leases
from mainstem_shared.model import events, ids, runs
from mainstem_shared.model.buckets import bucket_of
from mainstem_shared.model.events import Entry
from mainstem_shared.model.runs import RECORD_VERSION
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from support.paths import TESTS

FIXTURES = TESTS / "fixtures"
TTL_MS = 600_000
HOST = leases.incarnation().rsplit("-", 2)[0]
"""This machine's name is nobody's business."""
MOMENTS = ("started", "finished", "queued", "published", "paused", "sealed", "stop_ms")
"""Fields of a record that tell when something was: put back as long ago as it was when it was recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A run as some version left it: all keys of its slot, and what that version's client said of it."""

    name: str
    run_id: str
    recorded_ms: int
    keys: dict[str, Any]
    run: dict[str, Any]

    @property
    def log(self) -> list[Entry]:
        (entries,) = (value for key, value in self.keys.items() if key.endswith(f"{self.unique}:log"))
        return [events.entry(raw.encode(), {name.encode(): data.encode()}) for raw, name, data in entries]

    def save(self, directory: Path) -> None:
        """Write a file, one line per entry and field, so that a change can be read."""
        told = {"run_id": self.run_id, "recorded_ms": self.recorded_ms, "run": self.run, "keys": self.keys}
        text = json.dumps(told, indent=1, ensure_ascii=False)
        text = re.sub(rf"\b{HOST}-(?=\d+-[0-9a-f]{{8}}\b)", "host-", text)
        (directory / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")

    @property
    def unique(self) -> str:
        return ids.split(self.run_id)[1]

    async def restore(self, client: Any) -> None:
        """Put the run back where it was, and into the indexes that its version had."""
        passed_ms = now_ms() - self.recorded_ms
        for key, value in self.keys.items():
            await _put(client, key, value)
            await client.pexpire(key, TTL_MS)
        for key, record in self.keys.items():
            if not key.endswith(":record"):
                continue
            for name in MOMENTS:
                if (moment := record.get(name)) is not None:
                    await client.hset(key, name, int(moment) + passed_ms)
            run_id = runs.Spec.model_validate_json(record["spec"]).run_id
            is_first = key.startswith(keys.of_first_version(ids.split(run_id)[0]).thread)
            indexes = keys.FIRST_INDEXES if is_first else keys.indexes(bucket_of(run_id))
            await client.zadd(indexes.recent, {run_id: now_ms()})
            if "finished" not in record:
                await client.zadd(indexes.active, {run_id: now_ms() - 1})


def versions() -> list[Path]:
    """The directories of recordings, the oldest version's first."""
    return sorted(FIXTURES.glob("v*"))


def load(path: Path) -> Recording:
    """Read a recording."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return Recording(name=path.stem, **told)


def of_this_version() -> Path:
    return FIXTURES / f"v{RECORD_VERSION}"


async def record(client: Any, name: str, run_id: str, run: dict[str, Any]) -> Recording:
    """Take everything that a run has in its thread's slot."""
    tag, _ = ids.split(run_id)
    found = sorted([key.decode() async for key in client.scan_iter(f"ms:{{*}}:{tag}:*")])
    return Recording(
        name=name,
        run_id=run_id,
        recorded_ms=now_ms(),
        keys={key: await _get(client, key) for key in found},
        run=run,
    )


async def _get(client: Any, key: str) -> Any:
    match await client.type(key):
        case b"hash":
            return {name.decode(): value.decode() for name, value in (await client.hgetall(key)).items()}
        case b"stream":
            return [
                [raw.decode(), *(part.decode() for part in next(iter(fields.items())))]
                for raw, fields in await client.xrange(key)
            ]
        case b"zset":
            return {"zset": [[m.decode(), s] for m, s in await client.zrange(key, 0, -1, withscores=True)]}
        case b"list":
            return {"list": [item.decode() for item in await client.lrange(key, 0, -1)]}
        case _:
            return (await client.get(key)).decode()


async def _put(client: Any, key: str, value: Any) -> None:
    match value:
        case str():
            await client.set(key, value)
        case list():
            for raw, name, data in value:
                await client.xadd(key, {name: data}, id=raw)
        case {"zset": members}:
            await client.zadd(key, dict(members))
        case {"list": items}:
            await client.rpush(key, *items)
        case _:
            await client.hset(key, mapping=value)
