"""What a server cannot promise, told from its INFO."""

from __future__ import annotations

from typing import Any

import pytest

from mainstem_shared.store import server_checks

GOOD: dict[str, Any] = {
    "redis_version": "7.2.4",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
    "maxmemory": 1000,
    "used_memory": 700,
    "role": "master",
}


def test_a_server_without_shortcomings_is_not_mentioned():
    """As store and as broker; memory without a limit is none too small."""
    replicated = {"connected_slaves": 2, "min_slaves_good_slaves": 2}
    for info in (GOOD, {**GOOD, "maxmemory": 0, "used_memory": 10**12}, {**GOOD, **replicated}):
        assert server_checks.of_store(info) == server_checks.of_broker(info) == []
    assert server_checks.of_clock(0.3) == []


@pytest.mark.parametrize(
    ("changed", "setting", "is_fatal", "of_brokers_too"),
    [
        ({"redis_version": "6.2.14"}, "version", 1, 0),
        ({"aof_enabled": 0}, "durability", 0, 0),
        ({"aof_last_write_status": "err"}, "durability", 0, 0),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy", 1, 1),
        ({"maxmemory_policy": "volatile-ttl"}, "maxmemory-policy", 1, 1),
        ({"used_memory": 801}, "maxmemory", 0, 1),
        ({"role": "slave"}, "role", 1, 1),
        ({"connected_slaves": 2}, "min-replicas-to-write", 0, 0),
    ],
)
def test_each_setting_is_named_with_its_remedy(
    changed: dict[str, Any], setting: str, is_fatal: int, of_brokers_too: int
):
    """One finding for one setting. A broker need not keep anything: lost messages are published again."""
    (found,) = server_checks.of_store({**GOOD, **changed})
    assert (found.setting, found.fatal) == (setting, is_fatal)
    assert found.consequence
    assert found.remedy
    assert [b.setting for b in server_checks.of_broker({**GOOD, **changed})] == [setting] * of_brokers_too


def test_clocks_that_differ_are_named():
    """From a second on a warning, from five on worse."""
    (late,), (broken,) = server_checks.of_clock(1.2), server_checks.of_clock(7)
    assert (late.fatal, broken.fatal) == (False, True)
    assert "1.2 s" in late.consequence
