"""Reads token counts from usage objects of every known format.

OpenAI's counts of a request have the cached part in them, Anthropic's leave out what was read from a cache or
written to one. Here `input_tokens` is always the whole request and `output_tokens` the whole answer.
"""

# What providers send is checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mainstem_tasks.engines.assembly.pieces import Tokens


def tokens_of(usage: Any) -> Tokens | None:
    """Return the counts of a usage object, as far as they are readable."""
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = _details(usage, "prompt", "input"), _details(usage, "completion", "output")
    cached = _first(
        _count(prompt, "cached_tokens"),
        _count(usage, "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"),
    )
    written = _first(
        _count(prompt, "cache_write_tokens", "cache_creation_tokens"),
        _count(usage, "cache_creation_input_tokens", "cache_write_tokens"),
        _written(usage),
    )
    reasoning = _first(
        _count(completion, "reasoning_tokens", "thinking_tokens"), _count(usage, "reasoning_tokens")
    )
    read = _count(usage, "prompt_tokens", "input_tokens")
    said, total = _count(usage, "completion_tokens", "output_tokens"), _count(usage, "total_tokens")
    if read is not None and _is_without_cache(usage, read, (cached or 0) + (written or 0)):
        read += (cached or 0) + (written or 0)
        total = None
    if reasoning and None not in (read, said, total) and total == (read or 0) + (said or 0) + reasoning:
        said = (said or 0) + reasoning  # counted beside the answer: the total tells
    tokens = Tokens(
        input_tokens=read,
        output_tokens=said,
        total_tokens=total,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        cache_write_1h_tokens=_kept_for_an_hour(usage),
        reasoning_tokens=reasoning,
        audio_input_tokens=_count(prompt, "audio_tokens"),
        audio_output_tokens=_count(completion, "audio_tokens"),
    )
    return tokens if tokens != Tokens() else None


def _is_without_cache(usage: Mapping[str, Any], read: int, cache: int) -> bool:
    """Tell whether the count of a request leaves out its cached part: Anthropic's does, its names tell."""
    if not cache:
        return False
    own_names = "cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage
    return cache > read or (own_names and "prompt_tokens" not in usage)


def _written(usage: Mapping[str, Any]) -> int | None:
    kept = usage.get("cache_creation")
    if not isinstance(kept, Mapping):
        return None
    counts = [_count(kept, name) for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")]
    return sum(count or 0 for count in counts) if any(count is not None for count in counts) else None


def _kept_for_an_hour(usage: Mapping[str, Any]) -> int | None:
    kept = usage.get("cache_creation")
    return _count(kept, "ephemeral_1h_input_tokens") if isinstance(kept, Mapping) else None


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        if isinstance(found := usage.get(f"{name}_tokens_details"), Mapping):
            return found
    return {}


def _count(holder: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        if (count := integer(holder.get(name))) is not None and count >= 0:
            return count
    return None


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)


def integer(value: Any) -> int | None:
    """Return a number that may come as text or with a fraction of zero."""
    match value:
        case bool():
            return None
        case int():
            return value if abs(value) < 2**53 else None
        case float():
            return int(value) if value.is_integer() else None
        case str():
            plain = value.strip().removeprefix("-")
            return int(value) if plain.isdecimal() and len(plain) < 16 else None
        case _:
            return None
