"""`mainstem shards` shows which static shard has which buckets, and moves buckets while everything serves.

It speaks to the servers themselves: it belongs inside the trust boundary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mainstem_api.cli._options import Exit, Json, store_reported
from mainstem_shared import errors
from mainstem_shared.model.buckets import BUCKETS
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, failures, shard_maps, shard_moves
from mainstem_shared.store.redaction import redacted
from mainstem_shared.store.shard_moves import Move, Mover, Progress

shards = typer.Typer(help="Look after the static shards of a store.", no_args_is_help=True)
_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@shards.command()
def show(*, as_json: Json = False) -> None:
    """Show the shards, and how many buckets and keys each has."""
    with _mover() as mover:
        rows = [_row(mover, place) for place in mover.shards]
        moving = mover.map.moving
        if as_json:
            print(json.dumps({"version": mover.map.version, "moving": moving is not None, "shards": rows}))
            return
        print(f"version {mover.map.version} of the map")
        for row in rows:
            print(f"{row['shard']:>4}  {row['buckets']:>5} buckets  {row['keys']:>9,} keys  {row['address']}")
        if moving is not None:
            print(
                f"{len(moving.buckets)} buckets are going from {moving.source + 1} to {moving.target + 1}. "
                "If no mover is at work, run `mainstem shards move` again."
            )


def _row(mover: Mover, place: int) -> dict[str, Any]:
    shard = mover.shards[place]
    return {
        "shard": place + 1,
        "address": redacted(shard.address),
        "buckets": shard.buckets,
        "ranges": shard_maps.ranges(mover.map.buckets_of(place)),
        "keys": sum(mover.count(place, range(BUCKETS)).values()),
    }


@shards.command()
def move(
    *,
    buckets: Annotated[
        str | None,
        typer.Option("--buckets", help="Which ones, as 0-99,200; with --to.", show_default="evenly"),
    ] = None,
    to: Annotated[int | None, typer.Option("--to", min=1, help="The shard that gets them.")] = None,
    off: Annotated[
        list[int] | None, typer.Option("--off", min=1, help="A shard that is to have none. Repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would move, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Move buckets, by default so that all shards of MAINSTEM_REDIS_URL have equal shares.

    Runs go on. A new server of the list becomes a shard. If this is interrupted, run it again.
    """
    with _mover() as mover:
        moves = _planned(mover, buckets, to, [number - 1 for number in off or ()])
        if dry_run:
            for planned in moves:
                _print_plan(mover, planned, as_json=as_json)
            if not moves and not as_json:
                print("Nothing would move.")
            return
        mover.on_progress = lambda progress: _print(progress, as_json=as_json, at_end=False)
        _print(mover.run(moves), as_json=as_json, at_end=True)


def _planned(mover: Mover, buckets: str | None, to: int | None, off: list[int]) -> list[Move]:
    unknown = [place + 1 for place in ([to - 1] if to else []) + off if place not in mover.shards]
    if unknown:
        raise typer.BadParameter(f"there is no shard {unknown[0]}: see `mainstem shards show`.")
    if (buckets is None) != (to is None) or (buckets is not None and off):
        raise typer.BadParameter("--buckets and --to go together, and without --off.")
    if buckets is not None and to is not None:
        return shard_moves.chosen(mover.map, _numbers(buckets), to - 1)
    places = [place for place in mover.shards if place not in off]
    if not places:
        raise typer.BadParameter("one shard must stay.", param_hint="--off")
    return shard_moves.spread(mover.map, places)


def _numbers(text: str) -> list[int]:
    if not _RANGES.fullmatch(text):
        raise typer.BadParameter("numbers and ranges are wanted, like 0-99,200.", param_hint="--buckets")
    pairs = (part.partition("-") for part in text.split(","))
    found = [bucket for first, _, last in pairs for bucket in range(int(first), int(last or first) + 1)]
    if not found or max(found) >= BUCKETS:
        raise typer.BadParameter(f"buckets are 0 to {BUCKETS - 1}.", param_hint="--buckets")
    return found


def _print_plan(mover: Mover, planned: Move, *, as_json: bool) -> None:
    counts = mover.count(planned.source, planned.buckets)
    told = {
        "from": planned.source + 1,
        "to": planned.target + 1,
        "buckets": len(planned.buckets),
        "ranges": shard_maps.ranges(planned.buckets),
        "keys": sum(counts.values()),
    }
    if as_json:
        print(json.dumps(told))
    else:
        print(
            f"{told['buckets']} buckets, {told['keys']:,} keys, would go from {told['from']} to {told['to']}"
        )


def _print(progress: Progress, *, as_json: bool, at_end: bool) -> None:
    told = {
        "moved": progress.moved,
        "of": progress.total,
        "keys": progress.keys,
        "longest_hold_ms": round(progress.longest_hold_s * 1000),
        "done": at_end,
    }
    if as_json:
        print(json.dumps(told), flush=True)
    else:
        print(
            f"{told['moved']} of {told['of']} buckets, {told['keys']:,} keys; "
            f"none was held for more than {told['longest_hold_ms']} ms{'. Done.' if at_end else ''}",
            flush=True,
        )


@contextmanager
def _mover() -> Generator[Mover]:
    with store_reported():
        mover = Mover(url=endpoints.store_url(Settings()))
        try:
            with mover:
                yield mover
        except (failures.RedisError, OSError) as error:
            raise errors.StoreUnavailable(
                f"A shard does not answer, or refuses: {error}. Run it again."
            ) from error
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
