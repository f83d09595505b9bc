"""An upgrade from record version 1 to 2 under load: processes of that release's own code, replaced one by one.

`make upgrade` unpacks the last release of version 1 (MAINSTEM_V1) and runs it. In CI recorded runs of it stand in:
tests/integration/transitions/test_migration.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from pathlib import Path

import httpx
import pytest

from chaos.load import Load
from chaos.properties import Properties
from chaos.system import START_S, System, gateway_is_ready, worker_is_ready
from mainstem_shared.model import ids
from mainstem_shared.store import keys
from support.clients.reconnecting import Reader
from support.waiting import wait_until_async

V1 = os.environ.get("MAINSTEM_V1", "")
AT_ONCE = 14
AT_LEAST = 120
LONG_TOKENS = (300, 500)
EXIT_S = 60.0
SETTLE_S = 90.0

pytestmark = pytest.mark.skipif(not V1, reason="needs the code of version 1: make upgrade")


@pytest.mark.timeout(400)
@pytest.mark.one_server("version 1 knew one")
async def test_nothing_is_lost_while_version_1_becomes_version_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers first, then gateways, as docs/upgrading.md says: every event once; in the end all is in buckets."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        system = System(tmp_path, stack, workers=2)
        of_version_2 = system.env
        system.env = {**of_version_2, "PYTHONPATH": _code_of(Path(V1))}
        await system.start()
        load = Load(system, random.Random(7), at_once=AT_ONCE, at_least=AT_LEAST, long_tokens=LONG_TOKENS)
        properties = Properties(system, load.started)
        stack.callback(properties.close)
        loading = asyncio.create_task(load.run())
        try:
            upgrading = asyncio.create_task(_upgrade(system, load, of_version_2))
            await asyncio.wait({loading, upgrading}, return_when=asyncio.FIRST_COMPLETED)
            if not upgrading.done():
                upgrading.cancel()
                await loading  # it failed
            by_version_1 = await upgrading
            load.stop()
            async with asyncio.timeout(SETTLE_S):
                await loading
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await wait_until_async(
            lambda: not _left(system), description="the last thread to move", timeout_s=SETTLE_S
        )
        await properties.come_to_rest()
        for seed, run in enumerate(load.started):  # whoever began it
            late = Reader(run.run_id, seed)
            await late.follow(system.ports)
            assert (late.fold.text, late.cursor) == (run.readers[0].fold.text, run.readers[0].cursor)
        properties.check_all()
        properties.check_store()
        # Version 1 is told of this checkout's engines, too, and logs those that it has not.
        assert [it for it in system.complaints() if not it.startswith(("worker1.log", "worker2.log"))] == []
        with capsys.disabled():
            sys.stdout.write(
                f"\nupgrade: {by_version_1} of {len(load.started)} runs begun by version 1, "
                f"{time.monotonic() - began:.0f} s, nothing lost or doubled\n"
            )


def _code_of(tree: Path) -> str:
    """Return where that release's modules are: before this checkout's."""
    assert (tree / "shared/mainstem_shared").is_dir(), f"no release of Mainstem in {tree}"
    return os.pathsep.join(str(tree / part) for part in ("tests", "shared", "tasks", "workers", "api"))


async def _upgrade(system: System, load: Load, env: dict[str, str]) -> int:
    """Replace everything; returns how many runs version 1 had begun."""
    await wait_until_async(lambda: len(load.started) >= 30, description="the load", timeout_s=START_S)
    with system.store.client() as client:
        first = load.started[0].run_id
        assert client.exists(f"ms:{{{ids.split(first)[0]}}}:{ids.split(first)[1]}:record"), (
            "version 1 did not begin it"
        )
    system.env = env
    for old in list(system.workers):
        new = system.add_worker()
        await wait_until_async(
            lambda child=new: worker_is_ready(child), description=new.name, timeout_s=START_S
        )
        # Both versions are at work now, for as long as it takes to begin some runs more.
        more = len(load.started) + 10
        await wait_until_async(
            lambda enough=more: len(load.started) >= enough, description="more runs", timeout_s=START_S
        )
        old.terminate()
        assert await asyncio.to_thread(old.wait, EXIT_S) in (0, -15)
        system.workers.remove(old)
    by_version_1 = len(load.started)
    for child in system.gateways:  # together: those of version 1 do not find what is moved
        child.terminate()
    for child in system.gateways:
        assert await asyncio.to_thread(child.wait, EXIT_S) in (0, -15)
        child._env |= env
        child.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        for port in system.ports:
            await wait_until_async(
                lambda p=port: gateway_is_ready(client, p), description="a gateway", timeout_s=START_S
            )
    return by_version_1


def _left(system: System) -> int:
    """How many entries of the indexes of version 1 there are."""
    with system.store.client() as client:
        return sum(client.zcard(index) for index in keys.FIRST_INDEXES)
