"""Defines the options that several commands share, and the exit codes that all of them keep."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mainstem_api.cli._following import HoleError
from mainstem_api.cli._gateway import GatewayError, UnreachableError
from mainstem_shared.errors import MainstemError, StoreUnavailable
from mainstem_shared.settings import Settings


class Exit(IntEnum):
    """Exit codes: scripts branch on them."""

    SUCCEEDED = 0
    FAILED = 1
    REFUSED = 2
    ABORTED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="MAINSTEM_URL",
        help="The gateway.",
        show_default="of `mainstem up` in this directory",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def gateway_url(given: str | None) -> str:
    """Return the gateway's address: as given, as set, of the stack in this directory, or the usual one."""
    if given:
        return given if "://" in given else f"http://{given}"
    settings = Settings()
    if not settings.model_fields_set & {"host", "port"} and (running := _stack_here(settings)):
        return running
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - not bound
    return f"http://{host}:{settings.port}"


def _stack_here(settings: Settings) -> str | None:
    """Return the gateway that a running `mainstem up` of the data directory serves; None if there is none."""
    try:
        state = json.loads((settings.data_dir / "stack.json").read_text())
        with suppress(PermissionError):  # another user's, which lives
            os.kill(state["pid"], 0)  # a stack that was killed leaves its file
        return str(state["gateway"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def json_object(text: str, option: str) -> dict[str, Any]:
    """Read an option's JSON object: the text itself, `@file`, or `-` for stdin.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text("utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter("a JSON object is wanted, like '{\"tokens\": 20}'.", param_hint=option)
    return value  # pyright: ignore[reportUnknownVariableType] - JSON


@contextmanager
def reported(url: str) -> Generator[None]:
    """Turn what may go wrong between here and the gateway into one line on stderr and an exit code."""
    try:
        yield
    except UnreachableError as error:
        _fail(f"No gateway at {url} ({error}). Is `mainstem up` running there?", Exit.UNREACHABLE)
    except GatewayError as error:
        _fail(f"{error.code}: {error}", Exit.UNREACHABLE if error.is_temporary else Exit.REFUSED)
    except (MainstemError, HoleError) as error:
        _fail(str(error), Exit.REFUSED)


@contextmanager
def store_reported() -> Generator[None]:
    """Turn what may go wrong between here and the store into one line on stderr and an exit code."""
    try:
        yield
    except StoreUnavailable as error:
        _fail(str(error), Exit.UNREACHABLE)
    except MainstemError as error:
        _fail(str(error), Exit.REFUSED)


def _fail(words: str, code: Exit) -> None:
    typer.secho(words, fg=typer.colors.RED, err=True)
    raise typer.Exit(code)
