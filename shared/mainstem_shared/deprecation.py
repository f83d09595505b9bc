"""`moved` keeps old public import paths working, with a DeprecationWarning that names the new path.

A module at an old path consists of `__getattr__ = moved(__name__, …)`. CONTRIBUTING.md has the policy.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def moved(old: str, names: Mapping[str, str], *, removed_in: str = "0.3") -> Callable[[str], Any]:
    """Return a module's `__getattr__` that takes `names` from the modules they moved to, with a warning.

    Args:
        old: the module's own path.
        names: public name → module that has it now.
        removed_in: the release without the old path.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - PEP 562
        if name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        warnings.warn(
            f"{old}.{name} is {names[name]}.{name} now; the old path goes in Mainstem {removed_in}.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(names[name]), name)

    return __getattr__
