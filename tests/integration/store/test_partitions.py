"""A process that is cut off from one server by the network, and not by the server: packets are dropped silently.

`make fleet` runs it, as root: it makes a network namespace of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.models import fleet_trials
from support.processes import fleets
from support.processes.namespaces import namespace
from support.processes.servers import ValkeyProcess

pytestmark = pytest.mark.skipif(
    "MAINSTEM_FLEET_ROUNDS" not in os.environ, reason="needs root and a minute: make fleet"
)
ROUNDS = int(os.environ.get("MAINSTEM_FLEET_ROUNDS", "1"))
RUNS = 8
CUT_S = 7.0
"""Longer than a silent connection is waited for: it is given up, and opening another one fails."""


@contextmanager
def store(kind: str, directory: Path, addresses: tuple[str, ...]) -> Iterator[str]:
    """Servers that are reached by one address each; yields the store's."""
    options = [("--bind", f"127.0.0.1 {address}", "--protected-mode", "no") for address in addresses]
    with contextlib.ExitStack() as stack:
        if kind == "Cluster 3+3":
            fleet = stack.enter_context(fleets.cluster(directory, with_replicas=True, addresses=addresses))
            yield f"redis+cluster://{addresses[0]}:{fleet.primaries[0].port}"
            return
        servers = [stack.enter_context(ValkeyProcess(directory / f"shard{n}", *options[n])) for n in range(3)]
        yield ",".join(
            f"redis://{address}:{server.port}/0" for address, server in zip(addresses, servers, strict=False)
        )


@pytest.mark.parametrize("kind", ["static 3", "Cluster 3+3"])
def test_a_partition_from_one_of_three_servers(
    kind: str, tmp_path: Path, valkey_binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs on the others go on; those of the server that cannot be reached wait, and lose and double nothing."""
    del valkey_binary
    trials, wrong = max(1, ROUNDS // 5), Counter[str]()
    with (
        namespace(addresses=6 if kind == "Cluster 3+3" else 3) as place,
        store(kind, tmp_path, place.addresses) as url,
    ):
        for trial in range(trials):
            cut = place.addresses[trial % 3]

            def trouble(slots: list[int], address: str = cut) -> None:
                del slots
                place.cut(address)
                threading.Event().wait(CUT_S)
                place.mend(address)

            wrong += place.run(lambda it=trouble: asyncio.run(fleet_trials.trial(url, it, runs=RUNS)))
    fleet_trials.note("cut off", kind, f"{trials} × {RUNS} runs", wrong, capsys)
    assert not wrong
