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
    """Show the shards, how many buckets and keys each has, and what is on its way."""
    with _mover() as mover:
        rows = [_row(mover, place) for place in mover.shards]
        under_way = _under_way(mover)
        if as_json:
            told = {"version": mover.map.version, "moving": mover.map.moving is not None, "shards": rows}
            print(json.dumps({**told, "under_way": under_way}))
            return
        print(f"version {mover.map.version} of the map")
        for row in rows:
            print(f"{row['shard']:>4}  {row['buckets']:>5} buckets  {row['keys']:>9,} keys  {row['address']}")
        if under_way is not None:
            _print_under_way(under_way)


def _under_way(mover: Mover) -> dict[str, Any] | None:
    """Return what a mover does or has left: the buckets that nobody can use, and who holds them."""
    moving, holder = mover.map.moving, mover.holder()
    if mover.map.is_stable and holder is None:
        return None
    return {
        "from": moving.source + 1 if moving is not None else None,
        "to": moving.target + 1 if moving is not None else None,
        "held": shard_maps.ranges(moving.buckets) if moving is not None else [],
        "to_clean": mover.map.cleaning + 1 if mover.map.cleaning is not None else None,
        "mover": holder[0] if holder is not None else None,
        "lock_s": round(holder[1], 1) if holder is not None else None,
    }


def _print_under_way(told: dict[str, Any]) -> None:
    held = sum(last - first + 1 for first, last in told["held"])
    if held:
        way = f"on the way from {told['from']} to {told['to']}"
        print(f"{held} {_buckets(held)} {way}: nobody can use them yet.")
    elif told["to_clean"]:
        print(f"Shard {told['to_clean']} still has keys of buckets that left it.")
    if told["mover"]:
        print(f"Mover: {told['mover']}\n  (if it is dead, its lock ends in {told['lock_s']:.0f} s)")
    else:
        print("No mover is at work.")
    print("To go on: `mainstem shards move`. To leave it as it was: `mainstem shards back`.")


def _buckets(count: int) -> str:
    return "bucket is" if count == 1 else "buckets are"


@shards.command()
def back(*, as_json: Json = False) -> None:
    """Give buckets that a dead mover left on their way back to the shard that they came from.

    `mainstem shards show` tells whether there are any; `mainstem shards move` brings them to their target.
    """
    with _mover() as mover:
        given = mover.give_back()
        if as_json:
            print(json.dumps({"back": len(given), "ranges": shard_maps.ranges(given)}))
        else:
            print(f"{len(given)} buckets stay where they came from." if given else "Nothing was on its way.")


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
            f"none was held for over {told['longest_hold_ms']} ms{'. Done.' if at_end else ''}",
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
