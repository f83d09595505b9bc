"""Reads which limits of providers apply to a model (MAINSTEM_PROVIDER_LIMITS), and whose calls share a pace.

The most exact entry applies: `provider/model`, else `model`, else `provider`, whose models then share one
pace, else `*`, for each other provider. Without any entry a model of a provider has a pace of its own, which
has no limits: it only shuts when the provider says so.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mainstem_shared import errors
from mainstem_shared.model import jsontext, validation
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.transitions import Pace

Limit = Annotated[int, Field(gt=0, le=10**9)]


class ProviderLimit(BaseModel):
    """What all workers together may ask of a provider in a minute; None: as much as they like."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None


_TABLE: Final = TypeAdapter(dict[Annotated[str, Field(min_length=1)], ProviderLimit])
_NONE: Final = ProviderLimit()


def check(settings: Settings) -> None:
    """Read the limits.

    Raises:
        Misconfigured: they cannot be read; says where.
    """
    _limits(settings)


def pace_of(settings: Settings, provider: str | None, model: str) -> Pace:
    """Return the pace that a model's calls draw from."""
    limits, whose = _limits(settings), provider or ""
    exact = f"{whose}/{model}"
    other = whose if "*" in limits else exact
    named = next((name for name in (exact, model, whose) if name in limits), other)
    limit = limits.get(named) or limits.get("*") or _NONE
    return Pace(key=keys.pace(named), requests=limit.requests_per_minute, tokens=limit.tokens_per_minute)


def _limits(settings: Settings) -> dict[str, ProviderLimit]:
    given: dict[str, Any] | None = settings.provider_limits
    return {} if given is None else _parsed(jsontext.dumps(given))


@functools.lru_cache(maxsize=8)
def _parsed(given: bytes) -> dict[str, ProviderLimit]:
    try:
        return _TABLE.validate_json(given)
    except ValidationError as error:
        problem = validation.first_problem(error, whole="limits")
        raise errors.Misconfigured(f"MAINSTEM_PROVIDER_LIMITS: {problem}") from error
