"""`mainstem fork` copies a thread's history to a new thread, which goes on by itself."""

from __future__ import annotations

import json
import uuid
from typing import Annotated

import typer

from mainstem_api.cli._gateway import Gateway
from mainstem_api.cli._options import Json, Url, gateway_url, reported


def fork(
    *,
    thread_id: Annotated[str, typer.Argument(metavar="THREAD_ID", help="The thread to fork.")],
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="MESSAGE_ID", help="The last message to copy.", show_default="latest"),
    ] = None,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Of a run's message, the last event to copy.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="THREAD_ID", help="The new thread.", show_default="made up")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Copy a thread's history, up to a message or an event, to a new thread; prints its id."""
    address = gateway_url(url)
    given = {"message_id": at, "cursor": cursor, "thread_id": to}
    body = {name: value for name, value in given.items() if value is not None}
    with reported(address), Gateway(address) as gateway:
        made = gateway.fork(thread_id, body, idempotency_key=str(uuid.uuid4()))
    print(json.dumps(made, separators=(",", ":")) if as_json else made["thread_id"])
