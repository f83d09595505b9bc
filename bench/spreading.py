"""The row about a Cluster: where runs go on three nodes, and whether they cost each what they cost alone."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import redis
from harness import Bench, Row, free_port, store_cpu_s, wait_for
from redis.crc import key_slot
from writing import WORD, claimed

from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import ids
from mainstem_shared.model.events import Type
from mainstem_shared.store.client import Store
from mainstem_shared.store.embedded import find_server_binary

NODES, SLOTS = 3, 16384
RUNS, DELTAS = 600, 500
WITHIN = 1.25
"""How far the fullest node may be from a third, and a run's memory from what it is on one server."""


async def spreading(bench: Bench) -> Row:
    """Runs whose threads lie on the three nodes of a Cluster, each written by the writer of its node."""
    runs = bench.scaled(RUNS, 90)
    alone = await _written(bench, [bench.server.port], runs)
    with _cluster(bench) as ports:
        nodes = await _written(bench, ports, runs)
    skew = max(nodes.held) / (runs / NODES)
    memory, cpu = max(nodes.kb) / alone.kb[0], max(nodes.cpu_us) / alone.cpu_us[0]
    return Row(
        name=f"Cluster of {NODES}: {runs} runs of {DELTAS} deltas",
        figure=(
            f"{' / '.join(map(str, nodes.held))} runs; {_listed(nodes.kb)} KB each; "
            f"{_listed(nodes.cpu_us)} µs of the node a token"
        ),
        baseline=f"all on one server: {_listed(alone.kb)} KB each; {_listed(alone.cpu_us)} µs",
        ratio=f"fullest node {skew:.2f} × a third; memory {memory:.2f} ×, CPU {cpu:.2f} ×",
        goal=f"all ≤ {WITHIN}: runs spread, and cost what they cost on one",
        met=max(skew, memory, cpu) <= WITHIN,
        data={
            "held": nodes.held,
            "kb": nodes.kb,
            "cpu_us_by_node": nodes.cpu_us,
            "alone_kb": alone.kb[0],
            "alone_cpu_us": alone.cpu_us[0],
        },
    )


@dataclass(frozen=True, slots=True)
class Written:
    """What each server had: its runs, the kilobytes of one of them, its CPU for a token (µs)."""

    held: list[int]
    kb: list[float]
    cpu_us: list[float]


async def _written(bench: Bench, ports: list[int], runs: int) -> Written:
    """Write runs, each to the server that has its slot."""
    stores = [Store(f"redis://127.0.0.1:{port}/0") for port in ports]
    writers = [Writer(store, bench.settings()) for store in stores]
    for writer in writers:
        await writer.start()
    before = [await _used(store) for store in stores]
    held = [0] * len(ports)
    channels: list[Any] = []
    for n in range(runs):
        # A thread's tag decides its slot, and with it the node of all that its runs have.
        unique = ids.uuid7()
        thread = f"spread-{n}-{unique}"
        tag, _ = ids.split(ids.run_id("default", thread, unique))
        node = key_slot(tag.encode()) * len(ports) // SLOTS
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
    grown = [(now[0] - then[0], now[1] - then[1]) for now, then in zip(after, before, strict=True)]
    return Written(
        held=held,
        kb=[size / 1024 / count for (size, _), count in zip(grown, held, strict=True)],
        cpu_us=[1e6 * cpu / count / DELTAS for (_, cpu), count in zip(grown, held, strict=True)],
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
                lambda c=client: b"cluster_state:ok" in _told(c, "CLUSTER", "INFO"),
                "the Cluster",
            )
        yield ports


def _told(client: Any, *command: str) -> bytes:
    return client.execute_command(*command)


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
