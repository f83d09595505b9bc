"""`make bench`: runs every row, prints one table, writes bench/results/<date>.json, ends with a verdict."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Row, bench
from rich.console import Console
from rich.table import Table
from rows import ROWS

console = Console(width=170)


def main() -> int:
    """Run the rows; 1 only if a row could not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small loads, under a minute or so")
    parser.add_argument("rows", nargs="*", help="names of rows; all by default")
    options = parser.parse_args()
    scale = 0.1 if options.quick else 1.0
    rows: list[Row] = []
    broken: list[str] = []
    for measure in ROWS:
        if options.rows and measure.__name__ not in options.rows:
            continue
        begun = time.monotonic()
        try:
            with bench(scale) as fresh:
                got = asyncio.run(measure(fresh))
        except Exception:  # one row that cannot run must not hide the others
            traceback.print_exc()
            broken.append(measure.__name__)
            continue
        rows.extend(got if isinstance(got, list) else [got])
        console.print(f"[dim]{measure.__name__} took {time.monotonic() - begun:.0f} s[/dim]")
    _print(rows)
    _write(rows, quick=options.quick)
    missed = [row.name for row in rows if row.met is False]
    verdict = (
        f"{sum(row.met is True for row in rows)} goals met, {len(missed)} missed, {len(broken)} rows broken"
    )
    print(f"bench: {verdict}" + (f" ({', '.join(broken)})" if broken else ""))
    return 1 if broken else 0


def _print(rows: list[Row]) -> None:
    table = Table("row", "figure", "baseline", "ratio", "goal", "met")
    for row in rows:
        met = {True: "yes", False: "[red]no[/red]", None: ""}[row.met]
        table.add_row(row.name, row.figure, row.baseline, row.ratio, row.goal, met)
    console.print(table)


def _write(rows: list[Row], *, quick: bool) -> None:
    now = datetime.datetime.now(datetime.UTC)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    document = {"at": now.isoformat(timespec="seconds"), "quick": quick, "machine": machine}
    document["rows"] = [row.as_json() for row in rows]
    results = Path(__file__).resolve().parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"{now:%Y-%m-%d}{'-quick' if quick else ''}.json").write_text(
        json.dumps(document, indent=1) + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
