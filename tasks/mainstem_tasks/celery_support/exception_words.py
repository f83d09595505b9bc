"""Describes exceptions of foreign code.

Reading one runs what its class defines, which may raise anything, or return no text.
"""

from __future__ import annotations

from typing import Final

LIMIT: Final = 2000
"""Characters of a description."""


def described(error: BaseException) -> str:
    """Return an exception's `repr`, shortened; only the name of its class if that cannot be read."""
    try:
        return str.__getitem__(repr(error), slice(0, LIMIT))
    except BaseException:  # noqa: BLE001 - nothing may come out of a foreign `__repr__`
        return f"{type.__dict__['__name__'].__get__(type(error))}()"
