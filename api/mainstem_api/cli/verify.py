"""`mainstem verify` checks that records, logs and snapshots of runs obey the protocol."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mainstem_api.cli._options import Exit, Json, store_reported
from mainstem_shared import archive as archives
from mainstem_shared.model.verification import Dump, Verdict
from mainstem_shared.model.verification import verify as verify_dump
from mainstem_shared.operations.queries import run_dumps
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_shared.store.client import Store


def verify(
    *,
    run_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN_ID]...", help="Runs in the store.")
    ] = None,
    thread: Annotated[
        str | None, typer.Option("--thread", "-t", help="All runs of this thread that the store still has.")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose thread it is.")] = "default",
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Dumps in this file, one a line; - for stdin.")
    ] = None,
    dump: Annotated[bool, typer.Option("--dump", help="Print the dumps, WITH all content, instead.")] = False,
    as_json: Json = False,
) -> None:
    """Check that records, logs and snapshots of runs, in the store or in a dump, obey the protocol.

    Reads the store itself, without a gateway. Exits with 0 if every history holds, with 1 if one does not.
    """
    if not (run_ids or thread or file):
        raise typer.BadParameter("name a run, a --thread or a --file.")
    with store_reported():
        dumps = _from_file(file) if file else asyncio.run(_from_store(run_ids or [], thread, tenant))
    if dump:
        for one in dumps:
            sys.stdout.write(run_dumps.encode(one).decode() + "\n")
        return
    verdicts = [verify_dump(one) for one in dumps]
    for verdict in verdicts:
        print(json.dumps(asdict(verdict)) if as_json else _sentences(verdict))
    if not verdicts and not as_json:
        print("There is nothing to verify.")
    raise typer.Exit(Exit.FAILED if any(verdict.findings for verdict in verdicts) else Exit.SUCCEEDED)


async def _from_store(run_ids: list[str], thread: str | None, tenant: str) -> list[Dump]:
    settings = Settings()
    store = Store(endpoints.store_url(settings), archive=archives.connect(settings))
    try:
        if thread is not None:
            run_ids = [*run_ids, *await run_dumps.thread_run_ids(store, tenant, thread)]
        return [await run_dumps.dump(store, run_id) for run_id in run_ids]
    finally:
        await store.close()


def _from_file(name: str) -> list[Dump]:
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return [run_dumps.decode(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--file") from error


def _sentences(verdict: Verdict) -> str:
    looked = (
        f"{_count(verdict.entries, 'entry', 'entries')}, {_count(verdict.states, 'state', 'states')} compared"
    )
    if not verdict.findings:
        return f"{verdict.run_id} {verdict.status}: holds ({looked})"
    found = _count(len(verdict.findings), "finding", "findings")
    lines = [f"{verdict.run_id} {verdict.status}: {found} ({looked})"]
    return "\n".join([*lines, *(f"  {one.rule} at {one.at}: {one.text}" for one in verdict.findings)])


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
