"""`mainstem doctor` checks everything that runs need: one line each, with the remedy for what fails."""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata, util
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from mainstem_api.cli import _application
from mainstem_api.cli._gateway import Gateway, UnreachableError
from mainstem_api.cli._options import Exit, Json, Url, gateway_url
from mainstem_shared import errors
from mainstem_shared.coordination import leases
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, failures, keys, server_checks, topologies
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.connections import BlockingClient, connect_blocking
from mainstem_shared.store.embedded import ServerNotRunningError
from mainstem_shared.store.redaction import redacted
from mainstem_tasks.celery_support.publisher import CeleryPublisher

TIMEOUT_S: Final = 3.0
START_IT: Final = "Start it, or set MAINSTEM_REDIS_URL."


class Mark(StrEnum):
    """How a check came out; the value is its mark."""

    GOOD = "✓"
    NOTE = "·"
    WARNING = "!"
    BAD = "✗"


_STYLES: Final = {Mark.GOOD: "green", Mark.NOTE: "dim", Mark.WARNING: "yellow", Mark.BAD: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result: the subject, its state, and the remedy if it is not good."""

    mark: Mark
    name: str
    words: str
    remedy: str = ""


SLOW_LOOKED_AT: Final = 50
SLOW_US: Final = 100_000
"""Microseconds from which a command is slow: ours take a few hundred."""
SLOW_LATELY_S: Final = 600


def doctor(
    *,
    url: Url = None,
    app: Annotated[
        str | None, typer.Option("--app", "-A", help="A Celery app with Mainstem, as for celery -A.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", "-P", help="The pool its workers use.", show_default="the app's")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check store, broker, workers' settings and gateway, and say what to do.

    Exits with 1 if something is broken (✗); a warning (!) is no failure. Notes (·) are not about runs.
    """
    console = Console(highlight=False)
    settings = Settings()
    failed = False
    for title, check in (
        ("Installation", _installation),
        ("Providers", lambda: _providers(settings)),
        ("Store", lambda: _store(settings)),
        ("Broker", lambda: _broker(settings)),
        (f"Application {app}" if app else "Workers' settings", lambda: _workers(app, pool, settings)),
        ("Gateway", lambda: _gateway(gateway_url(url))),
    ):
        if not as_json:
            console.print(Text(title, "bold"))
        for finding in check():
            print(_json(title, finding)) if as_json else _print(console, finding)
            failed = failed or finding.mark is Mark.BAD
    raise typer.Exit(Exit.FAILED if failed else Exit.SUCCEEDED)


def _json(title: str, finding: Finding) -> str:
    """Return a finding as a line of JSON: `result` is good, note, warning or bad."""
    found = {
        "area": title.lower(),
        "name": finding.name,
        "result": finding.mark.name.lower(),
        "words": finding.words,
        "remedy": finding.remedy or None,
    }
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


def _print(console: Console, finding: Finding) -> None:
    line = Text("  ").append(finding.mark, _STYLES[finding.mark])
    console.print(line.append(f" {finding.name}: ", "bold").append(finding.words), soft_wrap=True)
    if finding.remedy:
        console.print(Text(f"    {finding.remedy}", "dim"), soft_wrap=True)


def _judge(name: str, words: str, *, good: bool, remedy: str, otherwise: Mark = Mark.BAD) -> Finding:
    return Finding(Mark.GOOD, name, words) if good else Finding(otherwise, name, words, remedy)


# -- installation


def _installation() -> Iterator[Finding]:
    names = ("mainstem", "celery", "kombu", "redis")
    yield Finding(Mark.GOOD, "versions", ", ".join(f"{name} {metadata.version(name)}" for name in names))
    celery = metadata.version("celery")
    yield _judge(
        "celery",
        f"{celery}, the asyncio pool is proven on 5.7",
        good=celery.startswith("5.7."),
        remedy="Install celery>=5.7,<5.8.",
    )
    yield _judge(
        "asyncio pool",
        "greenlet is installed" if util.find_spec("greenlet") else "greenlet is missing",
        good=util.find_spec("greenlet") is not None,
        remedy="Machines that run workers need the extra `mainstem[worker]`.",
        otherwise=Mark.WARNING,
    )


# -- providers


def _providers(settings: Settings) -> Iterator[Finding]:
    """Say of each built-in engine of a provider what it asks, or what it lacks. None of them is needed."""
    for engine in ("openai", "anthropic"):
        key, url, model = (getattr(settings, f"{engine}_{name}") for name in ("api_key", "base_url", "model"))
        setting = f"MAINSTEM_{engine.upper()}"
        if not (key or url or model):
            theirs = f"{engine.upper()}_API_KEY"
            hint = f" ({theirs} is set, but only {setting}_API_KEY counts)" if theirs in os.environ else ""
            yield Finding(Mark.NOTE, engine, f"not set up: {setting}_API_KEY and {setting}_MODEL do it{hint}")
        elif util.find_spec(engine) is None:
            yield Finding(
                Mark.WARNING, engine, "its client is missing", f"Workers need the extra `mainstem[{engine}]`."
            )
        elif not (key or url):
            yield Finding(Mark.WARNING, engine, "has a model, but no key", f"Set {setting}_API_KEY.")
        elif not model:
            yield Finding(Mark.NOTE, engine, f"runs must name a model; {setting}_MODEL is the default")
        else:
            yield Finding(Mark.GOOD, engine, f"{model} at {url or 'its own address'}")


# -- store


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        url = endpoints.store_url(settings)
        store = BlockingStore(url, timeout_s=TIMEOUT_S)
    except (errors.MainstemError, ValueError) as error:
        yield Finding(Mark.BAD, "address", str(error))
        return
    try:
        found = [finding for node in store.nodes() for finding in _node(store, node)]
        yield from found
        if not any(it.name == "cluster" or (it.name, it.mark) == ("connection", Mark.BAD) for it in found):
            store.check()
            yield from _fleet(store, settings)
    except errors.Misconfigured as error:
        yield Finding(Mark.BAD, "address", str(error))
    except (failures.RedisError, OSError) as error:
        yield Finding(Mark.BAD, "connection", f"{redacted(url)}: {error}", START_IT)
    finally:
        store.close()


def _node(store: BlockingStore, node: str) -> Iterator[Finding]:
    """Check one server; the others are checked even if it is unavailable."""
    try:
        yield from _server(store.client(node), node, in_cluster=store.topology.by_slot)
    except (failures.RedisError, OSError) as error:
        yield Finding(Mark.BAD, "connection", f"{redacted(node)}: {error}", START_IT)


def _server(client: BlockingClient, url: str, *, in_cluster: bool) -> Iterator[Finding]:
    begun = time.perf_counter()
    client.ping()
    took_ms = (time.perf_counter() - begun) * 1000
    try:
        info: dict[str, Any] = client.info("everything")  # pyright: ignore[reportAssignmentType] - not a coroutine
        apart_s = _skew(client)
    except failures.RedisError as error:
        yield _unasked(url, error)
        return
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info["redis_version"]
    yield Finding(Mark.GOOD, "connection", f"{name} {version} at {redacted(url)} answers in {took_ms:.1f} ms")
    good = {
        "durability": "append-only file on",
        "maxmemory-policy": "noeviction",
        "maxmemory": _memory(info),
        "clocks": f"{apart_s * 1000:.0f} ms apart from the server's",
    }
    broken = [*server_checks.of_store(info, in_cluster=in_cluster), *server_checks.of_clock(apart_s)]
    yield from _promised(broken, good)
    yield from _slow_commands(client)


def _slow_commands(client: BlockingClient) -> Iterator[Finding]:
    """Name what kept a server lately: while it executes a command, it answers nobody else."""
    try:
        logged: list[dict[str, Any]] = client.slowlog_get(SLOW_LOOKED_AT)  # pyright: ignore[reportAssignmentType] - not a coroutine
    except failures.RedisError:
        return  # not allowed to look; nothing of ours depends on it
    now = time.time()
    lately = [one for one in logged if one["duration"] > SLOW_US and now - one["start_time"] < SLOW_LATELY_S]
    if not lately:
        return
    worst = max(lately, key=lambda one: one["duration"])
    name = worst["command"].split()[0].decode("ascii", "replace")
    who = (worst.get("client_address") or b"?").decode("ascii", "replace")
    yield Finding(
        Mark.NOTE,  # it breaks no guarantee
        "slow commands",
        f"{len(lately)} lately; {name} of {who} took {worst['duration'] / 1000:.0f} ms",
        "Move whoever sends it to another server: meanwhile nobody else is answered.",
    )


def _unasked(url: str, error: failures.RedisError) -> Finding:
    """Tell that a server answers, but not what it is asked about itself: then nobody knows what it promises.

    Raises:
        RedisError: it answers nothing at all.
    """
    if failures.code_of(error) != "NOPERM":
        raise error
    return Finding(
        Mark.WARNING,
        "settings",
        f"{redacted(url)} answers, but {error}: what it promises is not known",
        "Give its user the rights +info and +time, or look at its settings yourself.",
    )


def _promised(broken: list[server_checks.Shortcoming], good: dict[str, str]) -> Iterator[Finding]:
    """List what a server guarantees and what not; `good` has the words for what is as it should be."""
    wrong = {found.setting for found in broken}
    for setting, words in good.items():
        if setting not in wrong:
            yield Finding(Mark.GOOD, setting, words)
    for found in broken:
        mark = Mark.BAD if found.fatal else Mark.WARNING
        yield Finding(mark, found.setting, found.consequence, found.remedy)


def _memory(info: dict[str, Any]) -> str:
    limit, used = info.get("maxmemory", 0), info["used_memory"]
    words = f"{used / 2**20:,.0f} MiB used"
    return words + (f" of {limit / 2**20:,.0f} MiB" if limit else "")


def _skew(client: BlockingClient) -> float:
    before = time.time()
    seconds, micros = client.time()  # pyright: ignore[reportGeneralTypeIssues] - not a coroutine
    return abs(seconds + micros / 1e6 - (before + time.time()) / 2)


def _served(roles: Sequence[bytes | None], settings: Settings) -> Iterator[Finding]:
    """Yield the queues for runs that no living worker takes, if several are named."""
    served = {name for role in roles if role for name in leases.queues_of(role.decode(), settings)}
    for queue in settings.queues if settings.engine_queues else ():
        engines = sorted(name for name, one in (settings.engine_queues or {}).items() if one == queue)
        about = f"{queue!r} (engines: {', '.join(engines) or 'all others'})"
        yield _judge(
            "queue of runs",
            f"{about} is taken by workers" if queue in served else f"{about}: no living worker takes it",
            good=queue in served,
            remedy=f"Start one with -Q {queue}, or without -Q; until then its runs stay queued.",
            otherwise=Mark.WARNING,
        )


def _fleet(store: BlockingStore, settings: Settings) -> Iterator[Finding]:
    listed, announced = store.commands(("ZRANGE", keys.WORKERS, 0, -1), ("HKEYS", keys.ENGINES))
    owners = [name.decode() for name in listed]
    roles: list[bytes | None] = store.commands(*(("GET", keys.lease(owner)) for owner in owners))
    alive = sum(role is not None and role.decode().split(" ")[0] == leases.WORKER for role in roles)
    lost = roles.count(None)
    yield _judge(
        "workers",
        f"{alive} alive" + (f", {lost} processes lost a moment ago" if lost else ""),
        good=alive > 0,
        remedy="Start one with `mainstem worker`; until then runs stay queued.",
        otherwise=Mark.WARNING,
    )
    yield from _served(roles, settings)
    engines = sorted(name.decode() for name in announced)
    yield _judge(
        "engines",
        ", ".join(engines) or "none was ever announced",
        good=bool(engines),
        remedy="Workers announce theirs when they start.",
        otherwise=Mark.WARNING,
    )
    active, kept = _counted(store)
    yield Finding(Mark.GOOD, "runs", f"{active:,} active, {kept:,} kept")


def _counted(store: BlockingStore) -> tuple[int, int]:
    """Return how many runs are unfinished, and how many kept, in all buckets."""
    commands = (("ZCARD", index) for bucket in keys.INDEXES for index in (bucket.active, bucket.recent))
    counts = store.commands(*commands)
    return sum(counts[::2]), sum(counts[1::2])


# -- broker and gateway


def _broker(settings: Settings) -> Iterator[Finding]:
    try:
        url = endpoints.broker_url(settings)
    except errors.MainstemError as error:
        yield Finding(Mark.BAD, "address", str(error))
        return
    publisher = CeleryPublisher(url)
    try:
        endpoints.celery_broker(url)
        publisher.ping()
        yield Finding(Mark.GOOD, "connection", f"{redacted(url)} answers")
        yield from _queue(url, settings.queue)
    except errors.Misconfigured as error:
        yield Finding(Mark.BAD, "address", str(error), "Set MAINSTEM_BROKER_URL to an address like this.")
    except (errors.BrokerUnavailable, failures.RedisError, OSError) as error:
        why = str(error.__cause__ or error)
        yield Finding(
            Mark.BAD, "connection", f"{redacted(url)}: {why}", "Start it, or set MAINSTEM_BROKER_URL."
        )
    finally:
        publisher.close()


def _queue(url: str, name: str) -> Iterator[Finding]:
    if not topologies.is_ours(url):
        return
    with connect_blocking(url, timeout_s=TIMEOUT_S) as client:
        waiting: Any = client.llen(name)
        yield Finding(Mark.GOOD, "queue", f"{waiting:,} messages wait")
        try:
            info: dict[str, Any] = client.info("everything")  # pyright: ignore[reportAssignmentType] - not a coroutine
        except failures.RedisError as error:
            yield _unasked(url, error)
            return
    yield from _promised(server_checks.of_broker(info), {})


def _workers(app: str | None, pool: str | None, settings: Settings) -> Iterator[Finding]:
    try:
        report = _application.inspect_app(app, pool, settings)
    except (errors.MainstemError, ServerNotRunningError):
        return  # said above: there is no broker
    except ImportError as error:
        yield Finding(Mark.NOTE, "not looked at", f"workers do not run here ({error})")
        return
    except (_application.UnusableError, ValueError) as error:
        yield Finding(Mark.BAD, "not looked at", str(error))
        return
    if not report.broken:
        yield Finding(Mark.GOOD, "promises", f"kept on the pool {report.pool}")
    yield from _promised(report.broken, {})
    for note in report.notes:
        yield Finding(Mark.NOTE, note.setting, note.consequence, note.remedy)


def _gateway(url: str) -> Iterator[Finding]:
    remedy = "Start it with `mainstem gateway` (or `mainstem up`), or give its address with --url."
    try:
        with Gateway(url) as gateway:
            ready = gateway.is_ready()
    except UnreachableError as error:
        yield Finding(Mark.WARNING, "connection", f"{url}: {error}", remedy)
        return
    words = "ready" if ready else "answers, but misses its store or broker"
    yield _judge("connection", f"{url} {words}", good=ready, remedy="See above.")
