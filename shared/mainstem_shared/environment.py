"""Validates the `MAINSTEM_…` variables when a process starts: a line for each mistake, with its remedy.

A misspelt variable would be ignored without a word, and a value that does not fit would be a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Final

from pydantic import ValidationError

from mainstem_shared.settings import Settings

PREFIX: Final = "MAINSTEM_"
_OTHERS: Final = frozenset(
    {"MAINSTEM_URL", "MAINSTEM_CI", "MAINSTEM_TESTING", "MAINSTEM_TESTING_IMAGE", "MAINSTEM_TETHER_FD"}
)
"""Variables that are no settings: of the command line, of tests, of the stack's own children."""


def known() -> list[str]:
    """Return the names of all settings' variables."""
    return [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]


def unknown(names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each variable that no setting has, with the nearest one that there is."""
    settings = known()
    for name in sorted(names):
        if not name.upper().startswith(PREFIX) or name.upper() in {*settings, *_OTHERS}:
            continue
        near = difflib.get_close_matches(name.upper(), settings, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "docs/reference/settings.md lists them."
        yield f"{name} is no setting: {hint}"


def mistakes(error: ValidationError) -> Iterator[str]:
    """Yield a line for each value that does not fit its setting. Secrets' values are not shown."""
    for one in error.errors(include_url=False):
        name = str(one["loc"][0]) if one["loc"] else ""
        field = Settings.model_fields.get(name)
        is_secret = field is None or "Secret" in str(field.annotation)
        shown = "" if is_secret else f"={str(one.get('input'))[:80]}"
        yield f"{PREFIX}{name.upper()}{shown}: {one['msg'][:1].lower()}{one['msg'][1:]}."
