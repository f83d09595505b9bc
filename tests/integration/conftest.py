"""What every test of the store must leave behind: keys that end by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from mainstem_shared import keys

_INDEXES = (keys.ACTIVE, keys.RECENT, keys.COMPACT, keys.WORKERS, keys.ENGINES)
PERMANENT = {key.encode() for key in (*_INDEXES, keys.STREAM_SECRET)}
"""Indexes whose entries are dropped one by one, and one secret."""


@pytest.fixture(autouse=True)
def no_key_lives_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test on the shared store, every key has a TTL or is on the permanent list."""
    url = request.getfixturevalue("store_url") if "store_url" in request.fixturenames else None
    yield
    if url is None:
        return
    with redis.Redis.from_url(url) as client:
        immortal = [
            key for key in client.scan_iter(count=1000) if key not in PERMANENT and client.ttl(key) == -1
        ]
    assert immortal == []
