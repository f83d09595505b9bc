"""`mainstem runs` prints a table of runs, newest first."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mainstem_api.cli._display import MARKS, STYLES
from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Json, Url, gateway_url, reported
from mainstem_shared.model.runs import Status

_LONGEST_PAGE: Final = 100
WIDE: Final = 100
"""From this width on there is room beside the run ids, which are never cut, for engine and thread."""
PIPED_WIDTH: Final = 400


def runs(
    *,
    thread: Annotated[str | None, typer.Option("--thread", "-t", help="Only this conversation's.")] = None,
    status: Annotated[Status | None, typer.Option("--status", "-s", help="Only runs in this status.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's.")] = None,
    active: Annotated[bool, typer.Option("--active", help="Only runs that are not over.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only failed ones, the last end first.")] = False,
    words: Annotated[
        str | None, typer.Option("--words", "-w", help="Only with these words: ids, engine, worker, error.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    address = gateway_url(url)
    query = {"status": status and status.value, "user": user, "active": "true" if active else None}
    with reported(address), Gateway(address) as gateway:
        if failed or words:
            search = {"status": "failed", "sort": "ended"} if failed else {"status": query["status"]}
            page = gateway.overview(**search, words=words, user=user, limit=min(limit, _LONGEST_PAGE))
            found, more = page["runs"], False
        else:
            found, more = _collect(gateway, thread, query, limit)
    if as_json:
        for run in found:
            print(json.dumps(run, separators=(",", ":")))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    if not found:
        console.print("No such runs.", style="dim")
        return
    console.print(table_of(found, datetime.now(UTC), wide=console.width >= WIDE))
    if more:
        console.print(f"There are more; --limit {2 * limit} shows some of them.", style="dim")


def _collect(
    gateway: Gateway, thread: str | None, query: dict[str, str | None], limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """Read pages until there are enough runs; tell also whether there are more."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        wanted = min(limit - len(found), _LONGEST_PAGE)
        page = gateway.runs(thread_id=thread, limit=wanted, cursor=cursor, **query)
        found += page["runs"]
        cursor = page["next"]
        if cursor is None or len(found) >= limit:
            return found, cursor is not None


def table_of(found: list[dict[str, Any]], now: datetime, *, wide: bool) -> Table:
    """Return a table of runs; ids are never cut."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("RUN", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    table.add_column("AGE", justify="right", no_wrap=True)
    table.add_column("TOOK", justify="right", no_wrap=True)
    if wide:
        table.add_column("ENGINE", no_wrap=True)
        table.add_column("THREAD", no_wrap=True, overflow="ellipsis")
    for run in found:
        created, ended = _time(run["created_at"]), _time(run["finished_at"])
        started = _time(run["started_at"])
        took = span(((ended or now) - started).total_seconds()) if started else ""
        age = span((now - created).total_seconds()) if created else ""
        engine = run["engine"] + (" (batch)" if run.get("priority") == "batch" else "")
        more = (Text(engine), Text(run["thread_id"])) if wide else ()
        table.add_row(run["run_id"], _status(run), age, took, *more)
    return table


def _status(run: dict[str, Any]) -> Text:
    status, reason = run["status"], run["reason"]
    if status == Status.QUEUED and run["waiting_for"] == "thread":
        reason = "behind its thread"
    words = status.replace("_", " ") if reason in (None, "completed") else reason.replace("_", " ")
    return Text(f"{MARKS.get(status, '·')} {words}", STYLES.get(status, ""))


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None


def span(seconds: float) -> str:
    """Format a duration in at most two units."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    for unit, name, finer, fine in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            rest = int(seconds % unit // finer)
            return f"{int(seconds // unit)} {name}" + (f" {rest} {fine}" if rest else "")
    raise AssertionError(seconds)
