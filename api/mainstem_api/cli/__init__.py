"""The `mainstem` command dispatches to one module per subcommand.

Only the module of the called command is imported: a worker lives for months and needs no HTTP client.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Final

import typer
from pydantic import ValidationError

from mainstem_shared import environment
from mainstem_shared.errors import MainstemError

COMMANDS: Final = {
    "init": "mainstem_api.cli.init",
    "up": "mainstem_api.cli.stack",
    "valkey": "mainstem_api.cli.stack",
    "worker": "mainstem_api.cli.processes",
    "gateway": "mainstem_api.cli.processes",
    "flower": "mainstem_api.cli.processes",
    "run": "mainstem_api.cli.run",
    "watch": "mainstem_api.cli.watch",
    "runs": "mainstem_api.cli.runs",
    "show": "mainstem_api.cli.show",
    "top": "mainstem_api.cli.show",
    "fork": "mainstem_api.cli.fork",
    "abort": "mainstem_api.cli.abort",
    "resume": "mainstem_api.cli.resume",
    "input": "mainstem_api.cli.resume",
    "kill": "mainstem_api.cli.operator_commands",
    "requeue": "mainstem_api.cli.operator_commands",
    "token": "mainstem_api.cli.token",
    "usage": "mainstem_api.cli.usage",
    "callbacks": "mainstem_api.cli.callbacks",
    "doctor": "mainstem_api.cli.doctor",
    "verify": "mainstem_api.cli.verify",
    "archive": "mainstem_api.cli.archive",
    "shards": "mainstem_api.cli.shards",
    "addresses": "mainstem_api.cli.addresses",
}
"""Where each command is; in the order of the help."""
PASSING: Final = {"worker", "flower"}
"""Commands that pass options they do not know on to Celery."""


def build_app(names: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """Return the command line with these commands."""
    app = typer.Typer(
        name="mainstem",
        help="LLM generations as durable runs on Celery.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # its tracebacks show local variables, secrets among them
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_nothing)  # with a single command typer would drop its name
    for name in names:
        command = getattr(importlib.import_module(COMMANDS[name]), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
            continue
        passing = {"ignore_unknown_options": True, "allow_extra_args": True} if name in PASSING else {}
        app.command(name, context_settings=passing)(command)
    return app


def main() -> None:
    """Run the command line; an error of ours is a sentence, not a traceback."""
    for line in environment.unknown(os.environ):
        print(f"mainstem: {line}", file=sys.stderr)
    called = sys.argv[1] if len(sys.argv) > 1 else ""
    app = build_app([called] if called in COMMANDS else COMMANDS)
    try:
        app()
    except MainstemError as error:
        print(f"mainstem: {error}", file=sys.stderr)
        sys.exit(1)
    except ValidationError as error:
        if error.title != "Settings":
            raise
        for line in environment.mistakes(error):
            print(f"mainstem: {line}", file=sys.stderr)
        sys.exit(2)


def _nothing() -> None:
    pass
