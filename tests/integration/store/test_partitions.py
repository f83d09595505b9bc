"""A process that is cut off from one server by the network, and not by the server: packets are dropped silently.

`make fleet` runs it, as root: it makes a network namespace of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path

import pytest

from support.models import fleet_trials
from support.processes.namespaces import namespace
from support.processes.servers import ValkeyProcess

pytestmark = pytest.mark.skipif(
    "MAINSTEM_FLEET_ROUNDS" not in os.environ, reason="needs root and a minute: make fleet"
)
ROUNDS = int(os.environ.get("MAINSTEM_FLEET_ROUNDS", "1"))
RUNS = 8
CUT_S = 7.0
"""Longer than a silent connection is waited for: it is given up, and opening another one fails."""


def test_a_partition_from_one_of_three_shards(
    tmp_path: Path, valkey_binary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs on the others go on; those of the server that cannot be reached wait, and lose and double nothing."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(namespace(addresses=3))
        servers = [
            stack.enter_context(
                ValkeyProcess(
                    tmp_path / f"shard{n}", "--bind", f"127.0.0.1 {address}", "--protected-mode", "no"
                )
            )
            for n, address in enumerate(place.addresses)
        ]
        url = ",".join(
            f"redis://{address}:{server.port}/0"
            for address, server in zip(place.addresses, servers, strict=True)
        )
        for trial in range(max(1, ROUNDS // 5)):
            cut = place.addresses[trial % 3]

            def trouble(slots: list[int], address: str = cut) -> None:
                del slots
                place.cut(address)
                threading.Event().wait(CUT_S)
                place.mend(address)

            wrong = place.run(lambda it=trouble: asyncio.run(fleet_trials.trial(url, it, runs=RUNS)))
            with capsys.disabled():
                sys.stdout.write(
                    f"\n| cut off | static 3 | {RUNS} runs | {wrong['lost']} | {wrong['doubled']} |\n"
                )
            assert not wrong
