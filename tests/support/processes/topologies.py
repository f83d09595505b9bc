"""The kind of store that the suites run on: one server, or what MAINSTEM_TEST_TOPOLOGY says (`static`, `cluster`).

`make fleet` runs the acceptance, operations and chaos suites on each kind. What is about one server by its
nature has the marker `one_server`, with the reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from support.processes import fleets
from support.processes.fleets import Fleet
from support.processes.servers import ValkeyProcess

KINDS = ("single", "static", "cluster")
TOPOLOGY = os.environ.get("MAINSTEM_TEST_TOPOLOGY", "single")
assert TOPOLOGY in KINDS, f"MAINSTEM_TEST_TOPOLOGY is one of {', '.join(KINDS)}"


@contextmanager
def store(directory: Path) -> Iterator[ValkeyProcess | Fleet]:
    """The servers of a store of the suite's kind: database 0 is the store, any other is one server's."""
    with contextlib.ExitStack() as stack:
        if TOPOLOGY == "single":
            yield stack.enter_context(ValkeyProcess(directory))
            return
        beside = stack.enter_context(ValkeyProcess(directory / "beside"))
        made = (
            stack.enter_context(fleets.shards(directory))
            if TOPOLOGY == "static"
            else stack.enter_context(fleets.cluster(directory, with_replicas=True))
        )
        yield replace(made, beside=beside)
