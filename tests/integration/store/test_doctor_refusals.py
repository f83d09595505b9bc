"""`mainstem doctor` on servers that answer with errors: it names them, and never fails itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mainstem_api.cli import doctor
from mainstem_shared.settings import Settings
from support.processes.refusals import REFUSALS, operator, refusing
from support.processes.servers import ValkeyProcess

CHECKS: dict[str, Callable[[Settings], Iterator[doctor.Finding]]] = {
    "store": doctor._store,
    "broker": doctor._broker,
}
ONLY_WRITES = {"without replicas", "disk broken", "disk full"}
"""Refusals that only a write notices, and that no INFO of a store without replicas tells as a fault."""


def settings_of(server: ValkeyProcess) -> Settings:
    return Settings(redis_url=server.url(), broker_url=server.url(1))


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind not in ONLY_WRITES])
def test_a_server_that_refuses_is_a_finding(private_valkey: ValkeyProcess, kind: str):
    """Of the store as of the broker: broken, or not to be looked at."""
    with refusing(private_valkey, kind):
        for check in CHECKS.values():
            found = list(check(settings_of(private_valkey)))
            if kind != "without rights":  # to write: what reads is answered
                assert {one.mark for one in found} & {doctor.Mark.BAD, doctor.Mark.WARNING}, found


@pytest.mark.parametrize("where", CHECKS)
def test_a_user_who_may_not_ask_for_settings_is_warned_of_that_alone(
    private_valkey: ValkeyProcess, where: str
):
    """Managed services forbid INFO: runs go on, and only what the server promises is unknown."""
    with operator(private_valkey) as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
        found = list(CHECKS[where](settings_of(private_valkey)))
    (warned,) = [one for one in found if one.name == "settings"]
    assert warned.mark is doctor.Mark.WARNING
    assert "info" in warned.words
    assert doctor.Mark.BAD not in {one.mark for one in found}
    assert {"runs", "queue"} & {one.name for one in found}
