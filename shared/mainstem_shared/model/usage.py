"""Counts what provider calls used: one call, sums by model, and the usage of a whole run.

A `usage` event carries the run's totals, the sums by model, and the call that was added; folds keep the calls
as a list (`folded`). Costs are decimals, as text; the cost of a model without a price is unknown,
which is null, never 0. Prices are in `prices`, budgets in `operations.spending`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, ClassVar, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mainstem_shared.model import validation

CALLS_KEPT: Final = 1000
"""Calls that a run's usage lists one by one; the sums have all of them."""


Estimated = Annotated[bool, Field(exclude_if=operator.not_)]


class TokenCounts(BaseModel):
    """Tokens by kind. Cached, written and audio tokens are parts of `input_tokens` or `output_tokens`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True
    )

    input_tokens: int = 0
    """All of the request, also what was read from a cache or written to one."""
    output_tokens: int = 0
    """All of the answer, reasoning included."""
    total_tokens: int = 0
    cached_input_tokens: int = 0
    """Of the input: read from the provider's cache."""
    cache_write_tokens: int = 0
    """Of the input: written to the provider's cache."""
    cache_write_1h_tokens: int = 0
    """Of those: to be kept for an hour, which costs more."""
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0


TOKEN_KINDS: Final = tuple(TokenCounts.model_fields)


class CallUsage(TokenCounts):
    """What one call of a provider used."""

    call_id: str = ""
    provider: str | None = None
    model: str | None = None
    at: str = ""
    """When it ended: RFC 3339, UTC."""
    estimated: Estimated = False
    """Whether counts are estimates: the call broke off before the provider told."""
    cost_usd: str | None = None
    """A decimal; null: the model has no price."""
    agent: str | None = Field(default=None, exclude_if=lambda agent: agent is None)
    """The sub-agent that made it, if one did: the id of its part."""


class ModelUsage(TokenCounts):
    """What all calls of one model used."""

    provider: str | None = None
    model: str | None = None
    calls: int = 0
    estimated: Estimated = False
    cost_usd: str | None = None


class Usage(TokenCounts):
    """What a run used, over all its calls of providers."""

    estimated: Estimated = False
    """Whether counts are estimates: of a provider's answer that broke off before it told."""
    cost_usd: str | None = None
    """A decimal; null if the price of any call is unknown."""
    models: list[ModelUsage] = Field(default_factory=list[ModelUsage])
    """The sums by provider and model, in the order of their first calls."""
    calls: list[CallUsage] = Field(default_factory=list[CallUsage], description=f"The first {CALLS_KEPT}.")


def checked_call(**fields: Any) -> CallUsage:
    """Return a call's usage from what an engine says; without `total_tokens` it is input and output.

    Raises:
        ValueError: a count is no whole number from 0 on, or parts are more than their whole.
    """
    try:
        given = {name: value for name, value in fields.items() if value is not None}
        call = CallUsage.model_validate(given, strict=True)
    except ValidationError as error:
        raise ValueError(f"usage: {validation.first_problem(error)}") from None
    for name in TOKEN_KINDS:
        if getattr(call, name) < 0:
            raise ValueError(f"usage: {name}: a count of tokens cannot be negative")
    if "total_tokens" in given:
        return call
    return call.model_copy(update={"total_tokens": call.input_tokens + call.output_tokens})


def added(before: Mapping[str, Any] | None, call: CallUsage) -> dict[str, Any]:
    """Return the payload of the `usage` event that adds a call to a run's usage so far."""
    totals = _sum(before or {}, call)
    first = not before
    totals["cost_usd"] = _cost(None if first else (before or {}).get("cost_usd"), call.cost_usd, first=first)
    models: list[dict[str, Any]] = [dict(one) for one in (before or {}).get("models", ())]
    named: dict[str, Any] = {"provider": call.provider, "model": call.model}
    known = next((m for m in models if named.items() <= m.items()), None)
    if known is None:
        known = dict[str, Any](named, calls=0)
        models.append(known)
    first = known["calls"] == 0
    cost = _cost(None if first else known.get("cost_usd"), call.cost_usd, first=first)
    known.update(_sum(known, call), calls=known["calls"] + 1, cost_usd=cost)
    return {**totals, "models": models, "call": call.model_dump()}


def folded(before: Mapping[str, Any] | None, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's usage after a `usage` event: its totals, and one call more in the list."""
    after = {name: value for name, value in event.items() if name != "call"}
    calls: list[Any] = list((before or {}).get("calls", ()))
    if "call" in event and len(calls) < CALLS_KEPT:
        calls.append(event["call"])
    return {**after, "calls": calls} if calls else after


def totals(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a usage without its lists."""
    if usage is None:
        return None
    return {name: value for name, value in usage.items() if name not in ("models", "calls")}


def _sum(before: Mapping[str, Any], call: CallUsage) -> dict[str, Any]:
    counts: dict[str, Any] = {name: before.get(name, 0) + getattr(call, name) for name in TOKEN_KINDS}
    return {**counts, "estimated": True} if before.get("estimated") or call.estimated else counts


def _cost(before: str | None, more: str | None, *, first: bool) -> str | None:
    if more is None or (before is None and not first):
        return None
    return decimal_text(Decimal(before or 0) + Decimal(more))


def decimal_text(amount: Decimal) -> str:
    """Return an amount as plain digits, without trailing zeros: `0.0125`."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class UsageRow(NamedTuple):
    """What a run used of one model, for tables: one row by (run_id, provider, model)."""

    run_id: str
    tenant: str
    user_id: str
    day: str
    """UTC, of the run's end: `2026-11-28`."""
    provider: str
    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    estimated: bool
    cost_usd: Decimal | None
    """None: unknown. Sums tell it by counting rows without a cost."""


def rows(
    usage: Mapping[str, Any] | None, *, run_id: str, tenant: str, user_id: str, day: str
) -> Iterator[UsageRow]:
    """Yield a final content's usage as rows; nothing for one that is missing or cannot be read."""
    try:
        read = Usage.model_validate(usage or {})
    except ValidationError:
        return
    models = read.models
    if not models and any(getattr(read, name) for name in TOKEN_KINDS):
        # written before there were sums by model
        models = [ModelUsage(**{name: getattr(read, name) for name in TOKEN_KINDS}, calls=1)]
    for one in models:
        yield UsageRow(
            run_id=run_id,
            tenant=tenant,
            user_id=user_id,
            day=day,
            provider=one.provider or "",
            model=one.model or "",
            calls=one.calls,
            **{name: getattr(one, name) for name in UsageRow._fields if name.endswith("_tokens")},
            estimated=one.estimated,
            cost_usd=_decimal(one.cost_usd),
        )


def _decimal(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        return None
