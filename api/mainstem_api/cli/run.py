"""`mainstem run` starts a run and displays it."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Final

import typer

from mainstem_api.cli._gateway import Gateway, GatewayError, UnreachableError
from mainstem_api.cli._options import Json, Url, gateway_url, json_object, reported
from mainstem_api.cli.watch import follow
from mainstem_shared.model.runs import IfActive, Priority
from mainstem_shared.settings import Settings

_TRIES: Final = 4
_FIRST_DELAY_S: Final = 0.5


def run(
    *,
    engine: Annotated[
        str | None,
        typer.Option("--engine", "-e", help="What produces the run.", show_default="MAINSTEM_DEFAULT_ENGINE"),
    ] = None,
    input: Annotated[  # noqa: A002 - the option's name
        str,
        typer.Option("--input", "-i", help="The engine's input: a JSON object, @FILE, or - for stdin."),
    ] = "{}",
    thread: Annotated[
        str | None, typer.Option("--thread", "-t", help="The conversation.", show_default="a new one")
    ] = None,
    if_active: Annotated[IfActive, typer.Option(help="What to do on a busy thread.")] = "reject",
    metadata: Annotated[str, typer.Option(help="Yours, kept with the run: a JSON object.")] = "{}",
    max_duration: Annotated[float | None, typer.Option(help="Longest life of the run, in seconds.")] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="Whether somebody waits for it.", show_default="the engine's")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Start a run and print its text as it comes.

    Exits with 0 if the run succeeded, 1 if it failed, 3 if it was aborted. Ctrl-C leaves the run going.
    """
    body: dict[str, Any] = {
        "engine": engine or Settings().default_engine,
        "input": json_object(input, "--input"),
        "if_active": if_active,
        "metadata": json_object(metadata, "--metadata"),
    }
    if not body["engine"]:
        raise typer.BadParameter("name one, or set MAINSTEM_DEFAULT_ENGINE.", param_hint="--engine")
    if max_duration is not None:
        body["max_duration_s"] = max_duration
    if priority is not None:
        body["priority"] = priority
    address = gateway_url(url)
    with reported(address), Gateway(address) as gateway:
        started = _start(gateway, thread or f"cli-{uuid.uuid4().hex[:12]}", body)
        raise typer.Exit(follow(gateway, started["run_id"], after=None, as_json=as_json, url_option=url))


def _start(gateway: Gateway, thread_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Start the run, trying again while a gateway is there but cannot: its key makes that one run at most."""
    key = str(uuid.uuid4())
    for attempt in range(_TRIES):
        try:
            return gateway.start(thread_id, body, idempotency_key=key)
        except GatewayError as error:
            if not error.is_temporary or attempt == _TRIES - 1:
                raise
        except UnreachableError:
            if attempt > 0:
                raise
        time.sleep(_FIRST_DELAY_S * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")
