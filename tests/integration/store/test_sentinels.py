"""Servers behind Sentinels, locked in every way there is: as store and as broker, found by each kind of client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.coordination.leases import Lease
from mainstem_shared.settings import Settings
from mainstem_shared.store import connections, keys, raw_connections
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.engines.demowords import demo_text
from support.models import verb_calls as v
from support.processes.processes import worker
from support.processes.sentinels import SERVICE, Group, certify, group
from support.sending import sent
from support.waiting import wait_until, wait_until_async

SECRET = "s3cr@t/;,:%?#geheim"
SENTINELS_SECRET = "wachposten@geheim"
QUOTED = quote(SECRET, safe="")
KINDS = ("open", "password", "user", "tls", "ipv6", "tls and password on ipv6")


@contextmanager
def locked(directory: Path, kind: str) -> Iterator[tuple[Group, str, str]]:
    """A group of this kind, what stands before its nodes in an address, and its options there."""
    options: dict[str, Any] = {}
    login = query = ""
    if "ipv6" in kind:
        options["host"] = "::1"
    if "tls" in kind:
        options["tls"] = certificates = certify(directory / "certificates")
        query = f"ssl=true&ssl_ca_certs={quote(str(certificates.authority))}"
    if "password" in kind:
        login = f":{QUOTED}@"
        options["client"] = {"password": SECRET}
        options["server_options"] = ("--requirepass", SECRET, "--masterauth", SECRET)
        options["sentinel_lines"] = (f'sentinel auth-pass {SERVICE} "{SECRET}"',)
    elif kind == "user":
        login = f"app:{QUOTED}@"
        query = f"sentinel_password={quote(SENTINELS_SECRET)}"
        options["client"] = {"username": "app", "password": SECRET}
        options["sentinel_client"] = {"password": SENTINELS_SECRET}
        options["server_options"] = (
            *("--user", "app", "on", f">{SECRET}", "~*", "&*", "+@all", "--user", "default", "off"),
            *("--masteruser", "app", "--masterauth", SECRET),
        )
        options["sentinel_lines"] = (
            f"requirepass {SENTINELS_SECRET}",
            f"sentinel sentinel-pass {SENTINELS_SECRET}",
            f"sentinel auth-user {SERVICE} app",
            f'sentinel auth-pass {SERVICE} "{SECRET}"',
        )
    with group(directory, replicas=1, sentinels=2, **options) as made:
        yield made, login, query


def forms(made: Group, login: str, query: str, db: int) -> list[str]:
    """Every way to spell the address, ours and Celery's."""
    nodes = made.addresses.split(",")
    more = f"?{query}" if query else ""
    celery = ";".join(f"sentinel://{login}{node}/{db}" for node in nodes)
    return [
        f"sentinel://{login}{','.join(nodes)}/{SERVICE}/{db}{more}",
        f"sentinel://{','.join(login + node for node in nodes)}/{SERVICE}/{db}{more}",
        f"{celery}?master_name={SERVICE}{'&' if query else ''}{query}",
        f"redis+sentinel://{login}{nodes[0]}/{SERVICE}?db={db}{'&' if query else ''}{query}",
        *([f"rediss+sentinel://{login}{nodes[0]}/{SERVICE}/{db}{more}"] if made.tls else []),
    ]


def doctor(store: str, broker: str) -> subprocess.CompletedProcess[str]:
    program = "from mainstem_api.cli import main; main()"
    env = {**os.environ, "MAINSTEM_REDIS_URL": store, "MAINSTEM_BROKER_URL": broker, "COLUMNS": "300"}
    return subprocess.run(
        [sys.executable, "-c", program, "doctor"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_no_secret(text: str) -> None:
    for secret in (SECRET, QUOTED, SENTINELS_SECRET, quote(SENTINELS_SECRET), "geheim"):
        assert secret not in text


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_client_finds_a_locked_service(tmp_path: Path, kind: str):
    """The loop's and the threads' clients, raw connections, publisher, worker and doctor, by every spelling."""
    with locked(tmp_path, kind) as (made, login, query):
        for url in forms(made, login, query, 0):
            await uses_as_store(url)
        for url in forms(made, login, query, 1):
            uses_as_broker(url, made)
        store, broker = forms(made, login, query, 0)[0], forms(made, login, query, 1)[0]
        told = doctor(store, broker)
        assert_no_secret(told.stdout + told.stderr)
        assert told.stdout.count(" answers") == 2, told.stdout + told.stderr
        assert "✗" not in told.stdout.partition("Workers' settings")[0], told.stdout
        await executes_a_run(tmp_path, store, broker)


async def uses_as_store(url: str) -> None:
    store = Store(url)
    try:
        assert isinstance(await v.start(store, v.new_run()), transitions.Started)
        await store.client.set("pooled", "1", px=5000)
    finally:
        await store.close()
    connection = await raw_connections.open_to_primary(url)
    assert await connection.call(b"PING") == b"PONG"
    connection.abort()
    await connection.lost
    with connections.connect_blocking(url, timeout_s=2) as client:
        assert client.get("pooled") == b"1"


def uses_as_broker(url: str, made: Group) -> None:
    publisher = CeleryPublisher(url)
    try:
        publisher.ping()
        task_id = publisher.publish(v.new_run(), user_id="ann", engine="demo")
    finally:
        publisher.close()
    with made.primary.client(1) as client:
        assert task_id in "".join(client.lrange("celery", 0, -1))  # type: ignore[arg-type]
        client.delete("celery")


async def executes_a_run(directory: Path, store: str, broker: str) -> None:
    env = {"MAINSTEM_REDIS_URL": store, "MAINSTEM_BROKER_URL": broker}
    with worker(env, directory, "worker") as child:
        wait_until(lambda: "@test ready" in child.log or not child.running, description="it", timeout_s=40)
        assert child.running, child.log
        async with AsyncRuns(Settings(redis_url=store, broker_url=broker)) as runs:
            begun = await runs.start("t", "demo", {"tokens": 5, "interval_ms": 1})
            assert (await runs.wait(begun.run_id, timeout=20)).text == demo_text(5)
        assert_no_secret(child.log)


async def test_a_former_primary_is_left_while_it_still_acknowledges(tmp_path: Path):
    """It stood still, another was promoted, it woke up: leases, calls and logs are on the new one within seconds."""
    moves: list[None] = []
    with group(tmp_path) as made:
        store = Store(made.url())
        lease = Lease(made.url(), Settings(lease_s=60))  # its own beats would come far too late

        def moved() -> None:
            moves.append(None)
            lease.beat_soon(moved=True)

        watching = asyncio.create_task(PrimaryWatch(store, on_moved=moved).run())
        lease.start()
        try:
            await store.command("SET", "before", "1", "PX", "60000")
            former = made.primary
            former.freeze()
            new = await asyncio.to_thread(made.wait_for_other_primary, former)
            former.thaw()
            await wait_until_async(lambda: bool(moves), description="the move to be noticed", timeout_s=5)
            with new.client() as client, former.client() as old:
                assert old.info("replication")["role"] == "master", "it must still believe in itself"
                old.delete(keys.lease(lease.owner))
                await wait_until_async(
                    lambda: client.pttl(keys.lease(lease.owner)) > 58_000, description="a beat", timeout_s=10
                )
                await store.patiently(lambda: sent(store, "SET", "after", "1", "PX", "60000"))
                await store.patiently(lambda: store.client.set("pooled", "1", px=60_000))
                assert client.mget("after", "pooled") == ["1", "1"]
                assert old.get("after") is None
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await asyncio.to_thread(lease.stop)
            await store.close()
