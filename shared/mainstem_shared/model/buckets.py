"""Buckets divide threads into 1,024 shares, each of which has a hash tag, hence one slot of a Cluster.

A thread's bucket is the first 10 bits of its tag, the first two characters. All keys of a bucket carry the
bucket's tag in braces, so that a verb may change a run and the indexes that list it at once; a node has whole
buckets. The tags never change: they are where the data is.
"""

from __future__ import annotations

import binascii
from typing import Final

BUCKETS: Final = 1024
SLOTS: Final = 16384
"""Slots of a Cluster: of a key, CRC-16/XMODEM of its hash tag modulo this number."""
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_DIGITS: Final = {character: value for value, character in enumerate(_ALPHABET)}


def slot_of(tag: str) -> int:
    """Return the Cluster slot of all keys with this hash tag."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


def _tags() -> tuple[str, ...]:
    """Return each bucket's hash tag: the smallest number whose slot lies in the bucket's sixteen.

    Bucket b gets a slot from 16 b to 16 b + 15, so that any range of slots has its share of the buckets, but
    for one at each end.
    """
    width = SLOTS // BUCKETS
    found: dict[int, str] = {}
    number = 0
    while len(found) < BUCKETS:
        tag = str(number)
        found.setdefault(slot_of(tag) // width, tag)
        number += 1
    return tuple(found[bucket] for bucket in range(BUCKETS))


TAGS: Final = _tags()
"""The hash tag of each bucket."""


def bucket_of(thread_tag: str) -> int:
    """Return the bucket of a thread's tag, or of a run id: they begin alike."""
    return _DIGITS[thread_tag[0]] << 5 | _DIGITS[thread_tag[1]]
