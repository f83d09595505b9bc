"""`mainstem show` prints one run's history; `mainstem top` shows running runs, live."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mainstem_api.cli._display import MARKS, STYLES, printable
from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Json, Url, gateway_url, reported
from mainstem_api.cli.runs import PIPED_WIDTH, WIDE, span, table_of

_WORDS: Final = {
    "run.created": "created",
    "run.started": "begun by a worker",
    "run.resumed": "continued by a worker",
    "run.restarted": "begun again",
    "run.queued": "given back to the queue",
    "run.sealed": "taken from its worker",
    "run.stop_asked": "somebody asked it to stop",
    "approval.required": "waits for people",
    "approval.resolved": "decided",
    "approval.expired": "nobody decided in time",
    "run.finished": "over",
}
_WAITS: Final = {"children": "waits for its children", "event": "waits for an event", "sleep": "sleeps"}
_KNOWN: Final = frozenset({"run_id", "thread_id", "v", "status"})
_OUTPUT: Final = 2000
"""Characters of a run's text that `show` prints: all of it is in --json."""


def show(
    *,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell what happened to a run: timeline, waits, worker, tasks, input and output."""
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        details = gateway.details(run_id)
    if as_json:
        print(json.dumps(details, separators=(",", ":")))
        return
    for line in _lines(details):
        print(line)


def _lines(details: dict[str, Any]) -> Iterator[str]:
    """Yield lines that can be copied as they are: nothing is cut, and the terminal wraps what is long."""
    run = details["run"]
    ended = f" ({run['reason']})" if run["reason"] not in (None, "completed") else ""
    yield f"{run['run_id']}  {run['status'].replace('_', ' ')}{ended}"
    for name, value in _facts(details):
        yield f"  {name:<16} {printable(str(value))}"
    if error := run["error"]:
        yield f"  {'error':<16} {error['code']}: {printable(error['message'])}"
    yield "timeline" + (
        "" if details["timeline_complete"] else " (from the record: the log keeps only the end)"
    )
    created = datetime.fromisoformat(run["created_at"])
    for one in details["timeline"]:
        at = datetime.fromisoformat(one["at"]) - created if one["at"] else None
        when = "" if at is None else f"+{at.total_seconds():.2f} s"
        about = " ".join(
            f"{k}={printable(v if isinstance(v, str) else json.dumps(v))}"
            for k, v in one["about"].items()
            if k not in _KNOWN
        )
        yield f"  {when:>12}  {_word(one)}  {about}".rstrip()
    usage: dict[str, Any] = run["usage"] or {}
    calls: list[dict[str, Any]] = usage.get("calls", [])
    if calls:
        yield "provider calls"
        yield from (f"  {_call(one)}" for one in calls)
    if children := details.get("children"):
        yield "children"
        yield from _tree(children, depth=1)
    yield "input"
    yield f"  {json.dumps(details['input'])}"
    yield "output"
    text = printable(run["text"])
    yield f"  {text[:_OUTPUT]}" + (
        f" … ({len(text) - _OUTPUT} more characters)" if len(text) > _OUTPUT else ""
    )


def _word(one: dict[str, Any]) -> str:
    """Say what an entry of the timeline is; a pause is not always for people."""
    action: dict[str, Any] = one["about"].get("action") or {}
    what = str(one["what"])
    return _WAITS.get(str(action.get("kind"))) or _WORDS.get(what, what)


def _call(one: dict[str, Any]) -> str:
    cost = "" if one["cost_usd"] is None else f"  ${one['cost_usd']}"
    agent = f"  by {printable(one['agent'])}" if one.get("agent") else ""
    model = printable(one["model"] or "?")
    return f"{one['at']}  {model}  {one['input_tokens']} in, {one['output_tokens']} out{cost}{agent}"


def _tree(children: list[dict[str, Any]], *, depth: int) -> Iterator[str]:
    for child in children:
        ended = f" ({child['reason']})" if child["reason"] not in (None, "completed") else ""
        status = child["status"].replace("_", " ")
        yield f"{'  ' * depth}{child['run_id']}  {printable(child['engine'])}  {status}{ended}"
        yield from _tree(child.get("children", []), depth=depth + 1)


def _facts(details: dict[str, Any]) -> Iterator[tuple[str, object]]:
    run = details["run"]
    yield "engine", run["engine"] + (f" ({run['priority']})" if run.get("priority") else "")
    yield "user", run["user_id"]
    yield "thread", run["thread_id"]
    if run["worker"]:
        yield "worker", run["worker"]
    if details["tasks"]:
        yield "celery tasks", ", ".join(details["tasks"])
    yield "segments", details["segments"]
    if details["losses"]:
        yield "workers lost", details["losses"]
    for name, key in (("queue wait", "queue_wait_ms"), ("took", "duration_ms"), ("paused", "paused_ms")):
        if details[key]:
            yield name, span(details[key] / 1000)
    if usage := run["usage"]:
        yield "tokens", f"{usage['input_tokens']} in, {usage['output_tokens']} out"
        if usage.get("cost_usd") is not None:
            yield "cost", f"${usage['cost_usd']}"
    if run.get("parent_run"):
        yield "part of", run["parent_run"]
    if details.get("archived"):
        yield "kept in", "the archive"


def top(
    *,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Only this user's; `*`: everybody's.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show unfinished runs, live. Ends with Ctrl-C."""
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        if as_json or once:
            found = gateway.overview(active="true", user=user)
            if as_json:
                print(json.dumps(found, separators=(",", ":")))
                return
            console = Console(highlight=False)
            if not console.is_terminal:
                console.width = PIPED_WIDTH
            console.print(_screen(found, wide=console.width >= WIDE))
            return
        console = Console(highlight=False)
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(
                    _screen(gateway.overview(active="true", user=user), wide=console.width >= WIDE),
                    refresh=True,
                )
                time.sleep(every)


def _screen(found: dict[str, Any], *, wide: bool) -> RenderableType:
    counts = found["counts"]
    line = Text("  ".join(f"{MARKS.get(k, '·')} {k.replace('_', ' ')} {v}" for k, v in counts.items()))
    line.stylize(STYLES["running"])
    if not found["runs"]:
        return Text("Nothing runs right now.")
    users = Counter(run["user_id"] for run in found["runs"])
    if len(users) > 1:  # whose burst it is, at three in the morning
        line.append("\n" + "  ".join(f"{printable(user)} {count}" for user, count in users.most_common(5)))
    return Group(line, Text(), table_of(found["runs"], datetime.now(UTC), wide=wide))
