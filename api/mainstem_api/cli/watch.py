"""`mainstem watch` follows a run from anywhere, and `mainstem run` its own run with the same function."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from mainstem_api.cli._display import Display, choose
from mainstem_api.cli._following import Follower
from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Exit, Json, Url, gateway_url, reported
from mainstem_api.cli._progress import Progress
from mainstem_shared.model import cursors

_EXITS = {"succeeded": Exit.SUCCEEDED, "failed": Exit.FAILED, "aborted": Exit.ABORTED}


def watch(
    run_id: Annotated[str, typer.Argument(help="The run, as `mainstem runs` lists it.")],
    after: Annotated[str | None, typer.Option(help="Go on after this cursor.", metavar="CURSOR")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Follow a run to its end; lost connections and gateway restarts do not matter.

    Exits with 0 if the run succeeded, 1 if it failed, 3 if it was aborted. Ctrl-C leaves the run going.
    """
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        raise typer.Exit(follow(gateway, run_id, after=after, as_json=as_json, url_option=url))


def follow(
    gateway: Gateway, run_id: str, *, after: str | None, as_json: bool, url_option: str | None
) -> Exit:
    """Show a run to its end, and return what the command exits with."""
    begin = cursors.START if after is None else cursors.parse(after)
    progress = Progress(run_id=run_id, cursor=begin)
    display = choose(progress, as_json=as_json)
    try:
        with display:
            _show(gateway, display, progress, after)
    except KeyboardInterrupt:
        again = ["mainstem", "watch", run_id, "--after", str(progress.cursor)]
        again += ["--url", url_option] if url_option else []
        typer.echo(f"The run goes on. To watch it again:\n  {shlex.join(again)}", err=True)
        return Exit.INTERRUPTED
    display.outcome()
    return _EXITS[progress.status]


def _show(gateway: Gateway, display: Display, progress: Progress, after: str | None) -> None:
    follower = Follower(gateway, progress.run_id, after=after, on_trouble=display.trouble)
    for event in follower:
        display.show(event)
    if progress.reason is None:  # nothing followed the cursor: the run was over before
        run = gateway.run(progress.run_id)
        progress.status, progress.reason, progress.error = run["status"], run["reason"], run["error"]
        progress.usage = run["usage"]
