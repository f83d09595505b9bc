"""`mainstem kill` ends a run, `mainstem requeue` republishes a queued one; no gateway is needed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mainstem_api.cli._options import Exit, Json
from mainstem_api.client.runs import Runs

RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")]


def kill(run_id: RunId, *, as_json: Json = False) -> None:
    """End a run at once, also if its worker does not react. With `mainstem abort` its engine can clean up."""
    with Runs() as runs:
        run = runs.kill(run_id)
    words = f"{run.run_id} is {run.status}: {run.reason}."
    print(run.model_dump_json() if as_json else words)


def requeue(run_id: RunId, *, as_json: Json = False) -> None:
    """Send a queued run's message to the broker once more. Sweepers do it too, by and by."""
    with Runs() as runs:
        if not runs.requeue(run_id):
            typer.secho("The broker does not answer; a sweeper will try again.", fg="red", err=True)
            raise typer.Exit(Exit.UNREACHABLE)
    print(json.dumps({"run_id": run_id, "published": True}) if as_json else f"{run_id} is published.")
