"""Runs the guards that MAINSTEM_INPUT_GUARDS names on users' input, before anything is stored.

MAINSTEM_INPUT_GUARDS names them, comma-separated: `package.module.function`. Each gets what was said and
returns None, or the message it is refused with. They run in the web tier (for plain Celery: in the worker)
before anything is stored, and must not block for long. A guard that fails lets nothing pass.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, cast

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.model.actions import ResumeRequest
from mainstem_shared.model.runs import Spec

__all__ = ["SAID_LIMIT", "Guard", "Kind", "Said", "plain"]

SAID_LIMIT: Final = 64 * 1024
"""Largest answer, reason, response, edit or steering text, in bytes of JSON: a long message, no file."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
"""Control characters, except white space; also those that turn text around for its reader."""


class Kind(StrEnum):
    """The kind of a user's input."""

    INPUT = "input"
    ANSWER = "answer"
    REASON = "reason"
    RESPONSE = "response"
    ARGUMENTS = "arguments"
    STEERING = "steering"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a user said: text, or (`INPUT`, `ARGUMENTS`) an object; and about which run."""

    kind: Kind
    value: Any
    spec: Spec


Guard = Callable[[Said], str | None]


def check(names: str, said: Said) -> None:
    """Run all guards on one input.

    Raises:
        InvalidRequest: one of them refuses it; says why.
    """
    for guard in load(names):
        if (refusal := guard(said)) is not None:
            raise errors.InvalidRequest(f"{said.kind}: {refusal}")


def check_resume(names: str, request: ResumeRequest, spec: Spec) -> None:
    """Run all guards on everything that a resume contains.

    Raises:
        InvalidRequest: one of them refuses it; says why.
    """
    for kind, value in _said_in(request):
        check(names, Said(kind=kind, value=value, spec=spec))


def _said_in(request: ResumeRequest) -> Iterator[tuple[Kind, Any]]:
    for decision in request.decisions or ():
        parts = (
            (Kind.REASON, decision.reason),
            (Kind.RESPONSE, decision.text),
            (Kind.ARGUMENTS, decision.arguments),
        )
        yield from ((kind, value) for kind, value in parts if value is not None)
    for answer in request.answers or ():
        yield Kind.ANSWER, answer.value if answer.text is None else answer.text


def plain(said: Said) -> str | None:
    """The built-in guard: no control characters, nothing huge. Run inputs are their engine's to judge."""
    if said.kind is Kind.INPUT:
        return None
    data = jsontext.dumps(said.value)
    if len(data) > SAID_LIMIT:
        return f"{len(data)} bytes are over the limit of {SAID_LIMIT}."
    if any(_CONTROL.search(text) for text in _texts(said.value)):
        return "control characters are not allowed."
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.items()))  # pyright: ignore[reportUnknownArgumentType] - JSON
    elif isinstance(value, list | tuple):
        for item in value:  # pyright: ignore[reportUnknownVariableType] - JSON
            yield from _texts(item)


@cache
def load(names: str) -> tuple[Guard, ...]:
    """Return the guards that MAINSTEM_INPUT_GUARDS names.

    Raises:
        ValueError: one of them cannot be found.
    """
    return tuple(_find(name) for name in filter(None, map(str.strip, names.split(","))))


def _find(name: str) -> Guard:
    module, _, function = name.replace(":", ".").rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"MAINSTEM_INPUT_GUARDS: {name!r} is no function: {error}") from error
    if not callable(found):
        raise ValueError(f"MAINSTEM_INPUT_GUARDS: {name!r} is not callable")  # noqa: TRY004 - one refusal
    return cast("Guard", found)
