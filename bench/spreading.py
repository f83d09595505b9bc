"""The row about a Cluster: where runs go on three nodes, and whether they cost each what they cost alone."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import redis
from harness import Bench, Row, free_port, store_cpu_s, wait_for
from redis.crc import key_slot
from starting import memory_of

from mainstem_shared import ids
from mainstem_shared.embedded import find_server_binary
from mainstem_shared.events import Type
from mainstem_shared.store import Store
from mainstem_shared.writer import Writer
from writing import WORD, claimed

NODES, SLOTS = 3, 16384
RUNS, DELTAS = 600, 500
WITHIN = 1.25
"""How far the fullest node may be from a third, and a run's memory from what it is on one server."""


async def spreading(bench: Bench) -> Row:
    """Runs whose threads lie on the three nodes of a Cluster, each written by the writer of its node."""
    runs = bench.scaled(RUNS, 90)
    alone = (await memory_of(bench, runs))["running_kb"]
    with _cluster(bench) as ports:
        stores = [Store(f"redis://127.0.0.1:{port}/0") for port in ports]
        writers = [Writer(store, bench.settings()) for store in stores]
        for writer in writers:
            await writer.start()
        before = [await _used(store) for store in stores]
        held = [0] * NODES
        channels: list[Any] = []
        for n in range(runs):
            # A thread's tag decides its slot, and with it the node of all that its runs have.
            unique = ids.uuid7()
            thread = f"spread-{n}-{unique}"
            tag, _ = ids.split(ids.run_id("default", thread, unique))
            node = key_slot(tag.encode()) * NODES // SLOTS
            held[node] += 1
            channels.append(await claimed(stores[node], bench.settings(), writers[node], thread, unique))
        for _ in range(DELTAS):
            for channel in channels:
                channel.text(Type.MESSAGE_DELTA, WORD)
            await asyncio.gather(*(channel.flush() for channel in channels))
        await asyncio.sleep(0.5)
        after = [await _used(store) for store in stores]
        for writer in writers:
            await writer.stop()
        for store in stores:
            await store.close()
    each = [(now[0] - then[0]) / 1024 / count for now, then, count in zip(after, before, held, strict=True)]
    cpu = [
        1e6 * (now[1] - then[1]) / count / DELTAS
        for now, then, count in zip(after, before, held, strict=True)
    ]
    skew = max(held) / (runs / NODES)
    worst = max(max(each) / alone, alone / min(each))
    return Row(
        name=f"Cluster of {NODES}: {runs} runs of {DELTAS} deltas",
        figure=(
            f"{' / '.join(map(str, held))} runs; {_listed(each)} KB each; "
            f"{_listed(cpu)} µs of the node a token"
        ),
        baseline=f"one server: {alone:.1f} KB each",
        ratio=f"fullest node {skew:.2f} × a third; memory {worst:.2f} ×",
        goal=f"both ≤ {WITHIN}: runs spread, and cost what they cost on one",
        met=skew <= WITHIN and worst <= WITHIN,
        data={"held": held, "kb": each, "alone_kb": alone, "cpu_us": cpu},
    )


def _listed(values: list[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


async def _used(store: Store) -> tuple[int, float]:
    client: Any = store.client
    return (await client.info("memory"))["used_memory_dataset"], await store_cpu_s(client)


@contextlib.contextmanager
def _cluster(bench: Bench) -> Iterator[list[int]]:
    """Three nodes that know each other, with a third of the slots each."""
    ports, buses = [free_port() for _ in range(NODES)], [free_port() for _ in range(NODES)]
    with contextlib.ExitStack() as stack:
        for port, bus in zip(ports, buses, strict=True):
            stack.enter_context(_node(bench, port, bus))
        clients = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        for n, client in enumerate(clients):
            wait_for(lambda c=client: _answers(c), "a node")
            first, last = -(-n * SLOTS // NODES), -(-(n + 1) * SLOTS // NODES) - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for port, bus in list(zip(ports, buses, strict=True))[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        for client in clients:
            wait_for(
                lambda c=client: b"cluster_state:ok" in bytes(c.execute_command("CLUSTER", "INFO")),
                "the Cluster",
            )
        yield ports


@contextlib.contextmanager
def _node(bench: Bench, port: int, bus: int) -> Iterator[None]:
    directory = bench.directory / f"node{port}"
    directory.mkdir()
    options = {
        "port": port, "bind": "127.0.0.1", "dir": directory, "save": "", "cluster-enabled": "yes",
        "cluster-port": bus, "logfile": "node.log",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    process = subprocess.Popen([find_server_binary(), *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
