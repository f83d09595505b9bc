"""`mainstem callbacks` lists failed callbacks and delivers them again."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Json, Url, gateway_url, reported

callbacks = typer.Typer(help="Who was not told that a run ended; tell them once more.", no_args_is_help=True)


@callbacks.command("list")
def list_undelivered(*, url: Url = None, as_json: Json = False) -> None:
    """List callbacks that are not delivered: those that wait for another attempt, and those given up."""
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        found = gateway.callbacks()["callbacks"]
    if as_json:
        for one in found:
            print(json.dumps(one, separators=(",", ":")))
        return
    Console(highlight=False).print(_table(found))


@callbacks.command()
def resend(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Tell whoever was not told of a run, or all if everybody was, once more, under the same id."""
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        answer = gateway.resend_callbacks(run_id)
    words = f"{answer['told']} of {run_id} will be told now."
    print(json.dumps(answer, separators=(",", ":")) if as_json else words)


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("RUN", "EVENT", "TARGET", "TRIED", "NEXT", "LAST FAILURE"):
        table.add_column(name, overflow="fold")
    for one in found:
        table.add_row(
            one["run_id"],
            one["type"],
            one["target"],
            str(one["attempts"]),
            one["next_attempt_at"] or "given up",
            one["error"] or "",
        )
    return table
