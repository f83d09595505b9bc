"""Splits text into deltas at offsets that depend on nothing but the offset.

However the engine's tokens came, were merged, trimmed or folded: the k-th delta of a text is the same, so its
number can be. A delta waits until it is full, or its text is complete: at most three characters are held
back at first. Later deltas are longer, so that the largest content has some ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_TIERS: Final = ((4_096, 4), (65_536, 16), (1_048_576, 256))
"""Up to this offset, deltas have so many characters."""
_LAST: Final = 4_096


def chunk_bounds(start: int, length: int, *, complete: bool) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each delta from `start`, itself a bound, within a text of `length` so far."""
    while start < length:
        end = start + _size(start)
        if end > length:
            if complete:
                yield start, length
            return
        yield start, end
        start = end


def _size(offset: int) -> int:
    return next((size for limit, size in _TIERS if offset < limit), _LAST)
