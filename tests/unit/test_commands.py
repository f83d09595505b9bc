"""What all commands of `mainstem` have in common: scripts can read them, and each says what it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from mainstem_api.cli import build_app

SERVING = {"up", "valkey", "worker", "gateway", "flower", "top"}
"""Commands that run until they are stopped."""
JSON_ANYWAY = {"archive export"}
"""Commands that print nothing else."""


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


ALL = dict(commands(typer.main.get_command(build_app())))


@pytest.mark.parametrize("name", sorted(set(ALL) - SERVING - JSON_ANYWAY))
def test_every_command_that_answers_can_answer_in_json(name: str):
    """`--json`, one object a line, is the interface of scripts."""
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert "--json" in options


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_says_what_it_does(name: str):
    """In a sentence, and each of its options does, too."""
    assert (ALL[name].help or "").split("\n")[0].endswith(".")
    for parameter in ALL[name].params:
        assert getattr(parameter, "help", "") or parameter.name in {"loglevel", "help"}, parameter.name
