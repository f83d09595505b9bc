"""`make bench`: runs every row, prints one table, writes bench/results/<date>.json, ends with a verdict."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Bench, Row, bench
from pace import Pace
from rich.console import Console
from rich.table import Table
from rows import ALONE, FULL, ROWS, SLOW

console = Console(width=170)

Measure = Callable[..., Any]
ROW_S = 600
"""No row takes longer, unless it hangs."""
TRIES, SLOWED = 3, 1.15
"""How often a row is measured that missed its goal while others slowed the core by so much; of these attempts
the one that was slowed least counts, whatever its figures are."""
QUICK = 0.1
"""The loads of quick runs, as a share of the full ones."""


def main() -> int:
    """Run the rows; 1 only if a row could not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small loads, under a minute")
    parser.add_argument(
        "--full", action="store_true", help="instead, the rows that take longest: growth, 100k deltas"
    )
    parser.add_argument("--again", action="store_true", help="put the named rows into today's results")
    parser.add_argument("rows", nargs="*", help="names of rows; all by default")
    options = parser.parse_args()
    wanted = [
        measure
        for measure in (*ROWS, *FULL)
        if (measure.__name__ in options.rows if options.rows else _belongs(measure, options))
    ]
    rows: list[Row] = []
    broken: list[str] = []
    with (
        Pace() as pace,
        bench(QUICK, keep=True) if options.quick else contextlib.nullcontext() as shared,
    ):
        for measure in wanted:
            try:
                rows += _undisturbed(measure, shared, pace)
            except Exception:  # one row that cannot run must not hide the others
                traceback.print_exc()
                broken.append(measure.__name__)
            if options.again or not options.rows:  # each time: whoever interrupts it keeps what there is
                _write(rows, broken, kind=_kind(options), again=options.again)
    _print(rows)
    missed = [row.name for row in rows if row.met is False]
    met = sum(row.met is True for row in rows)
    verdict = f"{met} goals met, {len(missed)} missed, {len(broken)} rows broken"
    print(f"bench: {verdict}" + (f" ({', '.join(broken)})" if broken else ""))
    return 1 if broken else 0


def _belongs(measure: Measure, options: argparse.Namespace) -> bool:
    if options.quick:
        return measure in ROWS and measure not in SLOW
    return measure in (FULL if options.full else ROWS)


def _undisturbed(measure: Measure, shared: Bench | None, pace: Pace) -> list[Row]:
    attempts: list[list[Row]] = []
    while len(attempts) < TRIES:
        attempts.append(got := _measured(measure, shared, pace))
        if shared is not None or all(row.met is not False or row.slowed < SLOWED for row in got):
            break
    least = min(attempts, key=lambda rows: rows[0].slowed)
    for row in least:
        row.tries = len(attempts)
    return least


def _measured(measure: Measure, shared: Bench | None, pace: Pace) -> list[Row]:
    begun, load = time.monotonic(), os.getloadavg()[0]
    alone = shared is None or measure in ALONE
    with bench(QUICK if shared else 1.0) if alone else contextlib.nullcontext(shared) as place:
        got = asyncio.run(_in_time(measure(place)))
    rows = got if isinstance(got, list) else [got]
    for row in rows:
        row.load = max(load, os.getloadavg()[0])
        row.slowed = pace.since(begun)
    console.print(f"[dim]{measure.__name__} took {time.monotonic() - begun:.0f} s[/dim]")
    return rows


async def _in_time(row: Any) -> Any:
    async with asyncio.timeout(ROW_S):
        return await row


def _print(rows: list[Row]) -> None:
    table = Table("row", "figure", "baseline", "ratio", "goal", "met", "load", "core")
    for row in rows:
        met = {True: "yes", False: "[red]no[/red]", None: ""}[row.met]
        table.add_row(
            row.name, row.figure, row.baseline, row.ratio, row.goal, met, f"{row.load:.0f}", row.core
        )
    console.print(table)


def _kind(options: argparse.Namespace) -> str:
    return "-quick" if options.quick else "-full" if options.full else ""


def _write(rows: list[Row], broken: list[str], *, kind: str, again: bool) -> None:
    """Write the results of today; `again`: these rows instead of those that were measured before."""
    now = datetime.datetime.now(datetime.UTC)
    results = Path(__file__).resolve().parent / "results"
    results.mkdir(exist_ok=True)
    path = results / f"{now:%Y-%m-%d}{kind}.json"
    stamp = {"at": now.isoformat(timespec="seconds"), "commit": _commit()}
    made = {row.name: row.as_json() | stamp for row in rows}
    if again and path.exists():
        made = {row["name"]: row for row in json.loads(path.read_text())["rows"]} | made
    document = {
        "at": now.isoformat(timespec="seconds"),
        "kind": kind[1:] or "bench",
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "rows": list(made.values()),
        "broken": broken,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _commit() -> str:
    """Return which code was measured."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
