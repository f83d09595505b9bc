"""Bounds label values that come from outside: users name engines and models as they like."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

OTHER: Final = "other"
"""Stands for every value that is not known, or is one too many."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9][\w.:/-]{0,63}")
_MOST_MODELS: Final = 50

_engines: set[str] = set()
_models: set[str] = set()


def know_engines(names: Iterable[str]) -> None:
    """Take note of engines that this process has, or that workers announced: others are not labels."""
    _engines.update(names)


def know_model(name: str | None) -> None:
    """Take note of a model that the deployment configured, or that a provider answered for."""
    if name and len(_models) < _MOST_MODELS and _PLAIN.fullmatch(name):
        _models.add(name)


def engine(name: str) -> str:
    """Return the label of an engine: users may ask for any."""
    return name if name in _engines else OTHER


def model(name: str | None) -> str:
    """Return the label of a model: users may ask for any, and a provider may echo it in its refusal."""
    return name if name in _models else OTHER
