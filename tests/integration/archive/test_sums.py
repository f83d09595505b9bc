"""The database adds up what archived runs used: by day of their end, user and model, exactly."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from integration.gateway.test_usage import spend
from mainstem_api.cli import archive as commands
from mainstem_shared.archive import usage_sums
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.rows import StoredRun, row_of
from mainstem_shared.archive.selections import Selection
from mainstem_shared.archive.tables import RUNS
from mainstem_shared.model import usage
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import spending, usage_days
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store

DAY = 86_400_000
MIDNIGHT = 20_000 * DAY
"""2024-10-04 00:00 UTC."""


@pytest.fixture
def archive_url(each_database: str) -> str:
    """The archive's address: every test runs on both databases."""
    return each_database


def used(*calls: dict[str, Any]) -> dict[str, Any] | None:
    """Return a run's usage after these calls."""
    total: dict[str, Any] | None = None
    for call in calls:
        total = usage.folded(total, usage.added(total, usage.checked_call(**call)))
    return total


def row(run: StoredRun, number: int, told: Any, **columns: Any) -> dict[str, Any]:
    """Return the row of a run that used this."""
    assert run.final is not None
    final = run.final._replace(data=json.dumps({**run.final.payload(), "usage": told}).encode())
    made = row_of(StoredRun(run_id=f"{run.run_id[:-4]}{number:04}", fields=run.fields, final=final))
    return {**made, "finished_ms": MIDNIGHT, **columns}


CALL = {"provider": "openai", "model": "gpt-4o", "input_tokens": 100, "output_tokens": 10, "cost_usd": "0.1"}
AUDIO = {**CALL, "model": "voice", "audio_input_tokens": 7, "cached_input_tokens": 3, "cache_write_tokens": 2}


async def of(archive: Archive, **whose: Any) -> list[tuple[Any, ...]]:
    given = {"tenant": "default", "since_ms": MIDNIGHT - DAY, "until_ms": MIDNIGHT + DAY, **whose}
    found = await usage_sums.by_day(archive, **given)
    named = ("day", "user_id", "model", "runs")
    return [
        (
            *(getattr(one, name) for name in named),
            one.tokens["calls"],
            one.tokens["total_tokens"],
            one.cost_usd,
            one.unpriced,
        )
        for one in found
    ]


async def test_sums_by_day_user_and_model(kept: Archive, stored: StoredRun) -> None:
    """Tenths of dollars add up without an error; each user, day, tenant and model stands alone."""
    await kept.put(
        [
            row(stored, 1, used(CALL, CALL, AUDIO), user_id="ann"),
            row(stored, 2, used(CALL), user_id="ann"),
            row(stored, 3, used({**CALL, "cost_usd": None}), user_id="ann", finished_ms=MIDNIGHT - 1),
            row(stored, 4, used(CALL), user_id="bob"),
            row(stored, 5, used(CALL), user_id="ann", tenant="other"),
            row(stored, 6, used(CALL), user_id="ann", finished_ms=MIDNIGHT + DAY),
            row(stored, 7, None, user_id="ann"),
            row(stored, 8, "damaged", user_id="ann"),
        ]
    )
    anns = [
        ("2024-10-03", "ann", "gpt-4o", 1, 1, 110, Decimal(0), 1),
        ("2024-10-04", "ann", "gpt-4o", 2, 3, 330, Decimal("0.3"), 0),
        ("2024-10-04", "ann", "voice", 1, 1, 110, Decimal("0.1"), 0),
    ]
    assert await of(kept, user_id="ann") == anns
    assert await of(kept) == [*anns, ("2024-10-04", "bob", "gpt-4o", 1, 1, 110, Decimal("0.1"), 0)]
    (voice,) = [
        one
        for one in await usage_sums.by_day(kept, tenant="default", since_ms=MIDNIGHT, until_ms=MIDNIGHT + 1)
        if one.model == "voice"
    ]
    assert voice.tokens["audio_input_tokens"] == 7
    assert voice.tokens["cached_input_tokens"] == 3
    assert voice.tokens["cache_write_tokens"] == 2
    await kept.deletions.delete_some(Selection(tenant="default", user_id="ann"))
    assert await of(kept, user_id="ann") == []


async def test_days_come_from_the_store_or_from_the_archive(
    kept: Archive, stored: StoredRun, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old days, and those of a store that was emptied, are the archive's; what the store counts counts once."""
    monkeypatch.setattr(usage_days, "now_ms", lambda: MIDNIGHT + 50 * DAY + 1)
    monkeypatch.setattr(spending, "now_ms", lambda: MIDNIGHT + 50 * DAY + 1)
    await kept.put(
        [
            row(stored, 1, used(CALL, AUDIO), user_id="ann"),
            row(stored, 2, used({**CALL, "cost_usd": None}), user_id="ann", finished_ms=MIDNIGHT + 48 * DAY),
            row(stored, 3, used(CALL), user_id="ann", finished_ms=MIDNIGHT + 50 * DAY),
            row(stored, 4, used(CALL), user_id="bob"),
            row(stored, 5, used(CALL), user_id="bob", finished_ms=MIDNIGHT + 48 * DAY),
        ]
    )
    await spend(store, settings, user="ann", tenant="default", cost="0.5")

    async def spent(user_id: str | None, days: int = 60) -> list[tuple[str, int, int, str, int]]:
        found = await usage_days.by_day(store, tenant="default", user_id=user_id, days=days)
        assert len(found) == days
        some = [day for day in found if day.calls]
        assert all(sum(one.calls for one in day.models) == day.calls for day in some)
        return [(d.day, d.calls, d.tokens, str(d.cost_usd), d.unpriced_calls) for d in some]

    today, before, old = ("2024-11-23", 1, 15, "0.5", 0), ("2024-11-21", 1, 110, "0", 1), "2024-10-04"
    assert await spent("ann") == [today, before, (old, 2, 220, "0.2", 0)]
    assert await spent("ann", 30) == [today, before]
    assert await spent(None) == [today, ("2024-11-21", 2, 220, "0.1", 1), (old, 3, 330, "0.3", 0)]
    monkeypatch.setattr(spending, "now_ms", lambda: MIDNIGHT + 48 * DAY)
    await spend(store, settings, user="eve", tenant="default", cost="1")  # the store has accounts of that day
    monkeypatch.setattr(spending, "now_ms", lambda: MIDNIGHT + 50 * DAY + 1)
    assert await spent("ann", 30) == [today]


async def test_what_spoils_no_sum(kept: Archive, stored: StoredRun) -> None:
    """Names with a NUL or half a surrogate pair, huge counts, and rows of earlier versions are added up."""
    await kept.put(
        [
            row(stored, 1, used({**CALL, "model": "a\0\ud800"})),
            row(stored, 2, used({**CALL, "input_tokens": 2**80})),
            row(stored, 3, None),
            row(stored, 4, None),
        ]
    )
    async with (await kept.open()).begin() as connection:
        old = {3: '{"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}', 4: "null"}
        for number, told in old.items():
            change = text("UPDATE mainstem_runs SET usage = CAST(:told AS JSON) WHERE run_id LIKE :which")
            if kept.is_sqlite:
                change = text("UPDATE mainstem_runs SET usage = :told WHERE run_id LIKE :which")
            await connection.execute(change, {"told": told, "which": f"%{number:04}"})
    found = await of(kept)
    assert [one[2:] for one in found] == [
        ("", 1, 0, 6, Decimal(0), 1),
        ("a\ufffd\ufffd", 1, 1, 110, Decimal("0.1"), 0),
        ("gpt-4o", 1, 1, 10**12, Decimal("0.1"), 0),
    ]


def test_the_command_prints_them(
    store_url: str, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mainstem archive usage --json` prints a line for each sum, with the cost as a decimal."""
    url = f"sqlite:///{tmp_path}/printed.db"

    async def put() -> None:
        archive = Archive(url)
        made: dict[str, Any] = dict.fromkeys(column.name for column in RUNS.c)
        told = {
            "models": [{"provider": "p", "model": "m", "calls": 1, "total_tokens": 5, "cost_usd": "0.25"}]
        }
        made |= {
            "run_id": "a_b",
            "tenant": "default",
            "user_id": "ann",
            "finished_ms": now_ms(),
            "usage": told,
        }
        await archive.put([{**made, "epoch": 1, "size": 0, "archived_ms": 1}])
        await archive.close()

    asyncio.run(put())
    for name, value in {"REDIS_URL": store_url, "BROKER_URL": broker_url, "ARCHIVE_URL": url}.items():
        monkeypatch.setenv(f"MAINSTEM_{name}", value)
    answer = CliRunner().invoke(commands.archive, ["usage", "--json"])
    assert answer.exit_code == 0, answer.output
    (line,) = answer.stdout.splitlines()
    printed = json.loads(line)
    assert (printed["user_id"], printed["model"], printed["cost_usd"]) == ("ann", "m", "0.25")
    assert printed["tokens"]["total_tokens"] == 5
    shown = CliRunner().invoke(commands.archive, ["usage", "--user", "ann"]).stdout
    assert "p/m  1 runs  5 tokens  0.25 USD" in shown
    assert CliRunner().invoke(commands.archive, ["usage", "--user", "bob"]).stdout == ""
