"""`mainstem usage` prints what provider calls cost, by day."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Json, Url, gateway_url, reported

MONTH: Final = 31
"""More days are shown without those on which nothing was spent."""


def usage(
    *,
    days: Annotated[int, typer.Option("--days", "-d", min=1, max=366, help="The last so many days.")] = 7,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="This user's; * for all of the tenant.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what provider calls cost, by day (UTC), and by model."""
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        found = gateway.usage(user=user, days=days)
    if as_json:
        for day in found["days"]:
            print(json.dumps(day, separators=(",", ":")))
        return
    console = Console(highlight=False)
    console.print(_table(found["days"]))
    if any(day["unpriced_calls"] for day in found["days"]):
        console.print("? calls of models without a price (MAINSTEM_PRICES): not in USD.", style="dim")


def _table(days: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("DAY", no_wrap=True)
    table.add_column("MODEL", no_wrap=True, overflow="ellipsis")
    for name in ("CALLS", "TOKENS", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for day in days:
        if len(days) > MONTH and not day["calls"]:
            continue
        table.add_row(day["day"], "all", *_figures(day), style="bold")
        for model in day["models"]:
            table.add_row("", model["model"], *_figures(model))
    return table


def _figures(row: dict[str, Any]) -> tuple[str, str, str, str]:
    unpriced = f"? {row['unpriced_calls']}" if row["unpriced_calls"] else ""
    return f"{row['calls']:,}", f"{row['tokens']:,}", row["cost_usd"], unpriced
