"""Policies decide which tool calls run, which are refused, and which wait for a human. Pure.

Layers stand in the order deployment, engine, run. A later one can only tighten: the strictest effect counts,
and decisions are what all layers allow. Nobody's policy is enabled: every call runs.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from mainstem_shared.model.actions import DECISIONS, DEFAULT_DECISIONS, DecisionType

T = TypeVar("T")


class Effect(IntEnum):
    """What becomes of a call; the greater one is the stricter."""

    ALLOW = 0
    ASK = 1
    DENY = 2


def _known(value: Any) -> Any:
    """Read decisions; what nobody knows counts as `reject`: a mistake must not allow anything."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        return value
    names: Iterable[Any] = value  # pyright: ignore[reportUnknownVariableType] - configuration
    return frozenset(name if name in DECISIONS else "reject" for name in names)


Decisions = Annotated[frozenset[DecisionType], BeforeValidator(_known)]


class Policy(BaseModel):
    """One layer. Patterns are shell globs over tool names, case-sensitive; of several the longest counts.

    Off unless `enabled`. In no list: `default`, which asks. In several: the strictest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = False
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    default: Literal["allow", "ask", "deny"] = "ask"
    decisions: Mapping[str, Decisions] = {}
    """By pattern: what may be decided about a call; elsewhere approve, reject and edit."""
    reasons: Mapping[str, str] = {}
    """By pattern: why it is asked or denied; shown to the user, and to the model."""

    def effect(self, tool: str) -> Effect:
        """Return what this layer wants."""
        for effect, patterns in (
            (Effect.DENY, self.deny),
            (Effect.ASK, self.ask),
            (Effect.ALLOW, self.allow),
        ):
            if any(fnmatchcase(tool, pattern) for pattern in patterns):
                return effect
        return Effect[self.default.upper()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What all layers together say about a call."""

    effect: Effect
    allowed_decisions: tuple[DecisionType, ...] = DEFAULT_DECISIONS
    reason: str | None = None


def rule(tool: str, layers: Iterable[Policy | None]) -> Ruling:
    """Return what becomes of a call of this tool."""
    enabled = [layer for layer in layers if layer is not None and layer.enabled]
    if not enabled:
        return Ruling(effect=Effect.ALLOW)
    effect = max(layer.effect(tool) for layer in enabled)
    reasons = (_longest(layer.reasons, tool) for layer in enabled if layer.effect(tool) is effect)
    return Ruling(
        effect=effect,
        allowed_decisions=_decisions(tool, enabled),
        reason=next((reason for reason in reasons if reason is not None), None),
    )


def _decisions(tool: str, enabled: list[Policy]) -> tuple[DecisionType, ...]:
    """Return what all layers allow. Only the outermost one may allow more than the defaults."""
    allowed: frozenset[DecisionType] | None = None
    for layer in enabled:
        own = _longest(layer.decisions, tool)
        if own is not None or allowed is None:
            mine = _DEFAULTS if own is None else own
            allowed = mine if allowed is None else allowed & mine
    return tuple(decision for decision in DECISIONS if decision in (allowed or _REJECT))


def _longest(by_pattern: Mapping[str, T], tool: str) -> T | None:
    """Return what stands for the longest pattern that fits; a tool's own name beats all patterns."""
    if tool in by_pattern:
        return by_pattern[tool]
    fitting = [pattern for pattern in by_pattern if fnmatchcase(tool, pattern)]
    return by_pattern[max(fitting, key=len)] if fitting else None


_DEFAULTS: Final = frozenset[DecisionType](DEFAULT_DECISIONS)
_REJECT: Final = frozenset[DecisionType](("reject",))
"""Layers that agree on nothing leave this: a human who is asked can always say no."""
