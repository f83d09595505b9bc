"""Who is dead by missing leases: never by one sweep, never across servers, never by a witness that knows nothing."""

from __future__ import annotations

import pytest

from mainstem_shared.coordination import suspicions
from mainstem_shared.coordination.suspicions import Server, Suspicions

HERE, THERE = Server(identity="a:1"), Server(identity="b:1")
PROMOTED = Server(identity="a:2")
REPLICA = Server(identity="a:1", is_replica=True)
LEASE_S = 15.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(suspicions.time, "monotonic", lambda: now[0])
    return now


def judge(suspects: Suspicions, server: Server, *missing: str) -> set[str]:
    return suspects.judge(set(missing), server, grace_s=LEASE_S)


def test_an_owner_is_dead_when_it_is_missing_twice():
    """Once may be a beat that came late; who is back in between begins anew."""
    suspects = Suspicions()
    assert judge(suspects, HERE, "x") == set()
    assert judge(suspects, HERE, "x", "y") == {"x"}
    assert judge(suspects, HERE) == set()
    assert judge(suspects, HERE, "y") == set()


@pytest.mark.parametrize("other", [THERE, PROMOTED])
def test_on_another_server_nobody_is_dead_for_a_lease(clock: list[float], other: Server):
    """Another run id or another history: owners may beat elsewhere still. After a lease the dead are dead."""
    suspects = Suspicions()
    judge(suspects, HERE, "x")
    for _ in range(3):
        assert judge(suspects, other, "x") == set()
        assert suspects.in_grace
        clock[0] += LEASE_S / 3
    assert not suspects.in_grace
    assert judge(suspects, other, "x") == {"x"}


def test_every_move_begins_the_grace_anew(clock: list[float]):
    """A second fail-over within the first one's grace is another server again."""
    suspects = Suspicions()
    judge(suspects, HERE, "x")
    judge(suspects, THERE, "x")
    clock[0] += LEASE_S * 0.9
    judge(suspects, HERE, "x")
    clock[0] += LEASE_S * 0.9
    assert judge(suspects, HERE, "x") == set()


def test_a_replica_is_no_witness():
    """It shows leases as expired that its primary has renewed, if the link is slow."""
    suspects = Suspicions()
    assert [judge(suspects, REPLICA, "x") for _ in range(3)] == [set()] * 3


def test_a_server_that_does_not_say_who_it_is_is_believed():
    """Some managed services refuse INFO: then two sightings count, as they always did."""
    suspects = Suspicions()
    assert [judge(suspects, Server(), "x") for _ in range(2)] == [set(), {"x"}]
    assert not suspects.in_grace


def test_what_was_seen_is_forgotten_while_the_store_was_unavailable():
    """Nobody could renew a lease meanwhile."""
    suspects = Suspicions()
    judge(suspects, HERE, "x")
    suspects.forget()
    assert judge(suspects, HERE, "x") == set()
