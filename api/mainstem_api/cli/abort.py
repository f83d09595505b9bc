"""`mainstem abort` stops a run."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import typer

from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Exit, Json, Url, gateway_url, reported

_WORDS: Final = {
    "aborted": "Aborted while {won_from}.",
    "already_finished": "It had ended before: {status}, {reason}.",
}


def abort(
    *,
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run to stop.")],
    wait: Annotated[
        float, typer.Option("--wait", "-w", min=0, max=30, help="Seconds to wait for its end.")
    ] = 10.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Stop a run, wherever it runs; what it has produced is kept.

    Exits with 0 once the run is over, however it ended, and with 1 while its end is still pending.
    """
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        reply = gateway.abort(run_id, wait_s=wait)
    print(json.dumps(reply, separators=(",", ":")) if as_json else _sentence(reply))
    raise typer.Exit(Exit.FAILED if reply["outcome"] == "pending" else Exit.SUCCEEDED)


def _sentence(reply: dict[str, Any]) -> str:
    run = reply["run"]
    if reply["outcome"] == "pending":
        heard = "has heard of it" if reply["signal_delivered"] else "does not answer"
        return f"Not over yet; its worker {heard}. It will end, whatever dies meanwhile."
    return _WORDS[reply["outcome"]].format(won_from=reply["won_from"], **run)
