"""Prices provider calls: a table of what models cost, and the cost of a call in decimals.

The packaged table (`default_prices.json`) says its date and sources; MAINSTEM_PRICES, a path or JSON of the
same form, adds to it and overrides it. Nothing is ever fetched. A model without a price has an unknown cost:
None.
"""

from __future__ import annotations

import functools
import json
import math
import re
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mainstem_shared import errors
from mainstem_shared.model import validation
from mainstem_shared.model.usage import TokenCounts

MILLION: Final = Decimal(1_000_000)
NANOS: Final = 1_000_000_000
"""Billionths of a dollar: the unit in which the store adds up money, whole numbers only."""
_DATED: Final = re.compile(r"^(?P<model>.+?)[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")
"""A version of a model, which costs as much as the model unless the table says otherwise."""


def _plain(value: object) -> object:
    """Refuse what is no plain number; a binary fraction is taken as it is written."""
    if isinstance(value, bool):
        raise ValueError("a price is a number")  # noqa: TRY004 - pydantic collects ValueErrors
    return str(value) if isinstance(value, float) else value


PerMillion = Annotated[
    Decimal, BeforeValidator(_plain), Field(ge=0, le=1_000_000, allow_inf_nan=False, max_digits=18)
]
"""US dollars for a million tokens."""


class Price(BaseModel):
    """What one model costs. A kind without a price costs as its whole does; audio is unknown then."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    provider: Annotated[str, Field(min_length=1)] = "*"
    """`*`: whoever serves the model."""
    model: Annotated[str, Field(min_length=1)]
    input: PerMillion
    output: PerMillion
    cached_input: PerMillion | None = None
    cache_write: PerMillion | None = None
    cache_write_1h: PerMillion | None = None
    audio_input: PerMillion | None = None
    audio_output: PerMillion | None = None

    def cost(self, tokens: TokenCounts) -> Decimal | None:
        """Return what a call cost, exactly; None if it has a part whose price is unknown."""
        if (tokens.audio_input_tokens and self.audio_input is None) or (
            tokens.audio_output_tokens and self.audio_output is None
        ):
            return None
        kept = min(tokens.cache_write_1h_tokens, tokens.cache_write_tokens)
        written = tokens.cache_write_tokens - kept
        special = tokens.cached_input_tokens + written + kept + tokens.audio_input_tokens
        write = self.input if self.cache_write is None else self.cache_write
        parts = (
            (max(0, tokens.input_tokens - special), self.input),
            (tokens.cached_input_tokens, self.input if self.cached_input is None else self.cached_input),
            (written, write),
            (kept, write if self.cache_write_1h is None else self.cache_write_1h),
            (tokens.audio_input_tokens, self.audio_input or Decimal(0)),
            (max(0, tokens.output_tokens - tokens.audio_output_tokens), self.output),
            (tokens.audio_output_tokens, self.audio_output or Decimal(0)),
        )
        return sum((count * price for count, price in parts), Decimal(0)) / MILLION

    @property
    def dearest_input(self) -> Decimal:
        """The most that a token of a request can cost."""
        return max(
            p
            for p in (self.input, self.cached_input, self.cache_write, self.cache_write_1h, self.audio_input)
            if p is not None
        )

    @property
    def dearest_output(self) -> Decimal:
        """The most that a token of an answer can cost."""
        return max(p for p in (self.output, self.audio_output) if p is not None)


class _File(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    models: list[Price]
    as_of: str = ""
    unit: str = ""
    sources: list[str] = Field(default_factory=list[str])
    replace: bool = False
    """Whether the packaged table is left out."""


class PriceTable:
    """Prices by provider and model."""

    def __init__(self, prices: list[Price], *, as_of: str = "") -> None:
        self.as_of = as_of
        self._prices = {(price.provider, price.model): price for price in prices}

    def __len__(self) -> int:
        return len(self._prices)

    def find(self, provider: str | None, model: str | None) -> Price | None:
        """Return a model's price: of its provider, else of any; of the very version, else of the model."""
        if not model:
            return None
        dated = _DATED.match(model)
        for name in (model, *([dated["model"]] if dated else [])):
            for whose in (provider or "", "*"):
                if (price := self._prices.get((whose, name))) is not None:
                    return price
        return None

    def cost(self, provider: str | None, model: str | None, tokens: TokenCounts) -> Decimal | None:
        """Return what a call cost; None: unknown."""
        price = self.find(provider, model)
        return None if price is None else price.cost(tokens)

    def most(
        self, provider: str | None, model: str | None, *, input_tokens: int, output_tokens: int
    ) -> Decimal | None:
        """Return the most that a call with so many tokens can cost; None: unknown."""
        price = self.find(provider, model)
        if price is None:
            return None
        return (input_tokens * price.dearest_input + output_tokens * price.dearest_output) / MILLION


def nanos(amount: Decimal) -> int:
    """Return dollars as whole billionths, rounded up."""
    return math.ceil(amount * NANOS)


def dollars(amount: int) -> Decimal:
    """Return billionths of a dollar as dollars."""
    return Decimal(amount) / NANOS


@functools.lru_cache(maxsize=8)
def table(given: str = "") -> PriceTable:
    """Return the packaged prices, with those of MAINSTEM_PRICES on top: the path of a file, or JSON.

    Raises:
        Misconfigured: they cannot be read; says where.
    """
    packaged = _parsed(
        (resources.files("mainstem_shared") / "model" / "default_prices.json").read_text("utf-8")
    )
    if not given.strip():
        return PriceTable(packaged.models, as_of=packaged.as_of)
    own = _parsed(_text(given))
    base = [] if own.replace else packaged.models
    return PriceTable([*base, *own.models], as_of=own.as_of or packaged.as_of)


def _text(given: str) -> str:
    if given.lstrip().startswith("{"):
        return given
    try:
        return Path(given).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise errors.Misconfigured(
            f"MAINSTEM_PRICES: {given!r} cannot be read ({error}); give the path of a JSON file, or JSON."
        ) from error


def _parsed(text: str) -> _File:
    try:
        return _File.model_validate(json.loads(text, parse_float=Decimal))
    except ValidationError as error:
        raise errors.Misconfigured(f"MAINSTEM_PRICES: {validation.first_problem(error)}") from error
    except ValueError as error:
        raise errors.Misconfigured(f"MAINSTEM_PRICES: this is no JSON: {error}") from error
