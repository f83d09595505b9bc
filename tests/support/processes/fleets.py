"""Stores of several servers, as real processes: static shards, and Clusters with replicas; killed, moved, promoted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from support.processes.routed_clients import RoutedClient, flush
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until

SLOTS = 16384
NODE_TIMEOUT_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A store of several servers. `primaries` as they began."""

    primaries: tuple[ValkeyProcess, ...]
    replicas: tuple[ValkeyProcess, ...] = ()
    is_cluster: bool = False
    guests: tuple[ValkeyProcess, ...] = ()
    """Servers that join it and leave it again."""
    beside: ValkeyProcess | None = None
    """The server of whatever is no store: what has a number of database on one server."""

    def url(self, db: int = 0) -> str:
        """The store's address; of other databases that of the server beside it, which has them."""
        if db and self.beside is not None:
            return self.beside.url(db)
        if self.is_cluster:
            return f"redis+cluster://127.0.0.1:{self.primaries[0].port}/{db}"
        return ",".join(server.url(db) for server in self.primaries)

    def client(self, db: int = 0) -> redis.Redis:
        """Return a client to look into all of them with; close it."""
        if db and self.beside is not None:
            return self.beside.client(db)
        return RoutedClient(self.url())

    @property
    def port(self) -> int | None:
        """Where the server beside it listens."""
        return self.beside.port if self.beside is not None else None

    # -- all servers at once

    def freeze(self) -> None:
        self._all(ValkeyProcess.freeze)

    def thaw(self) -> None:
        self._all(ValkeyProcess.thaw)

    def sigkill(self) -> None:
        self._all(ValkeyProcess.sigkill)

    def stop(self) -> None:
        self._all(ValkeyProcess.stop)

    def start(self) -> None:
        self._all(ValkeyProcess.start)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def written(self) -> tuple[int, ...]:
        """How much each server's append-only file holds."""
        return tuple(server.written for server in self.servers)

    def go_back(self, written: tuple[int, ...]) -> None:
        """Have each server lose all writes since, and start again."""
        for server in self.servers:
            server.sigkill()
        for server, kept in zip(self.servers, written, strict=True):
            server.go_back(kept)

    def _all(self, act: Callable[[ValkeyProcess], None]) -> None:
        for server in (*self.servers, *((self.beside,) if self.beside is not None else ())):
            act(server)

    @property
    def servers(self) -> tuple[ValkeyProcess, ...]:
        return (*self.primaries, *self.replicas)

    def clear(self) -> None:
        """Delete all keys but the shards' marks."""
        for server in (*self.servers, *((self.beside,) if self.beside is not None else ())):
            with server.client() as client, contextlib.suppress(redis.exceptions.ReadOnlyError):
                flush(client)
                client.script_flush()
        self.client().close()  # it gives static shards their marks, if they have none

    def open_slot(self, slot: int, target: ValkeyProcess) -> ValkeyProcess:
        """Begin to move a slot, none of its keys yet; returns the server that has it."""
        source = self.owner_of(slot)
        with source.client() as here, target.client() as there:
            there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id_of(source))
            here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id_of(target))
        return source

    def move_slot(self, slot: int, target: ValkeyProcess) -> None:
        """Move a slot key by key, as `valkey-cli --cluster reshard` does."""
        self.finish_slot(slot, self.open_slot(slot, target), target)

    def finish_slot(self, slot: int, source: ValkeyProcess, target: ValkeyProcess) -> None:
        """Move what is left of a slot's keys, and say whose it is."""
        ids = {server: _id_of(server) for server in (source, target)}
        with source.client() as here, target.client() as there:
            while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
                here.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            there.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            here.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def owner_of(self, slot: int) -> ValkeyProcess:
        """Return the server that has a slot now."""
        with self.primaries[0].client() as client:
            ranges: Any = client.execute_command("CLUSTER", "SLOTS")
        port = next(primary[1] for first, last, primary, *_ in ranges if first <= slot <= last)
        return next(server for server in (*self.servers, *self.guests) if server.port == port)

    def in_charge(self) -> list[ValkeyProcess]:
        """Return the servers that have slots or buckets now."""
        if not self.is_cluster:
            return list(self.primaries)
        with self.primaries[0].client() as client:
            ranges: Any = client.execute_command("CLUSTER", "SLOTS")
        ports = {primary[1] for _, _, primary, *_ in ranges}
        return [server for server in (*self.servers, *self.guests) if server.port in ports]

    def fail_over(self, former: ValkeyProcess) -> None:
        """Have a primary's replica take its place, with all that it has."""
        heir = self.other_of(former)
        with heir.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
        self.wait_for_primary(heir)
        self.wait_for_replica(former)

    def other_of(self, server: ValkeyProcess) -> ValkeyProcess:
        """Return the other server of the same slots: a primary's replica, or a replica's primary."""
        pairs = [*zip(self.primaries, self.replicas, strict=True)]
        return next(b if a is server else a for a, b in pairs if server in (a, b))

    def wait_for_replica(self, server: ValkeyProcess) -> None:
        """Wait until a server follows the one that took its place."""

        def follows() -> bool:
            with server.client() as client:
                told = client.info("replication")
                return told["role"] == "slave" and told["master_link_status"] == "up"

        wait_until(follows, description="the former primary to be a replica", timeout_s=30)

    def wait_for_primary(self, server: ValkeyProcess) -> None:
        """Wait until a replica was promoted."""

        def is_primary() -> bool:
            with server.client() as client:
                return client.info("replication")["role"] == "master"

        wait_until(is_primary, description="a replica to be promoted", timeout_s=30)


def move_between(slot: int, source: ValkeyProcess, target: ValkeyProcess) -> None:
    """Move a slot whose server is none that the Cluster began with."""
    with source.client() as here, target.client() as there:
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id_of(source))
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id_of(target))
        while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            here.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for client in (there, here):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", _id_of(target))


@contextmanager
def lone_node(directory: Path) -> Iterator[ValkeyProcess]:
    """A server that may join a Cluster."""
    options = (
        *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
        *("--cluster-allow-replica-migration", "no"),  # else it becomes a replica when its last slot leaves
    )
    with ValkeyProcess(directory, *options, "--cluster-port", str(free_port())) as server:
        yield server


@contextmanager
def joined(fleet: Fleet, server: ValkeyProcess) -> Iterator[None]:
    """Have a server be a node of a Cluster, without slots at first, and be forgotten in the end."""
    name, others = _id_of(server), fleet.servers
    bus = int(server.options[server.options.index("--cluster-port") + 1])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(other.client()) for other in others]
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        for client in clients:
            wait_until(
                lambda c=client: name in str(c.execute_command("CLUSTER", "NODES")),
                description="the new node to be known",
                timeout_s=20,
            )
        wait_until(
            lambda: _is_whole_for(server, len(others) + 1),
            description="the new node to know all",
            timeout_s=20,
        )
        try:
            yield
        finally:
            for client in clients:
                client.execute_command("CLUSTER", "FORGET", name)
            with server.client() as own:
                own.execute_command(
                    "CLUSTER", "RESET", "HARD"
                )  # the others take its former name for a minute no more


def _is_whole_for(server: ValkeyProcess, count: int) -> bool:
    with server.client() as client:
        return _is_whole(client, count)


def _id_of(server: ValkeyProcess) -> str:
    with server.client() as client:
        return client.execute_command("CLUSTER", "MYID")


@contextmanager
def shards(directory: Path, *, count: int = 3) -> Iterator[Fleet]:
    """Static shards: servers that know nothing of each other."""
    with contextlib.ExitStack() as stack:
        yield Fleet(
            primaries=tuple(stack.enter_context(ValkeyProcess(directory / f"shard{n}")) for n in range(count))
        )


@contextmanager
def cluster(
    directory: Path, *, count: int = 3, with_replicas: bool = False, addresses: tuple[str, ...] = ()
) -> Iterator[Fleet]:
    """A Cluster of primaries, each with its share of the slots, and each with a replica if wanted.

    `addresses`: what the nodes are called and reached by, each by its own, besides 127.0.0.1.
    """
    options = (
        *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
        *("--repl-diskless-sync-delay", "0"),
    )
    with contextlib.ExitStack() as stack:
        # Not the default, 10,000 above the other one: many a free port has none there.
        buses = [free_port() for _ in range(count * (2 if with_replicas else 1))]
        servers = [
            stack.enter_context(
                ValkeyProcess(
                    directory / f"node{n}",
                    *options,
                    *("--cluster-port", str(bus)),
                    *(_reached_by(addresses[n]) if addresses else ()),
                )
            )
            for n, bus in enumerate(buses)
        ]
        clients = [stack.enter_context(server.client()) for server in servers]
        for n, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            if n < count:
                first, last = n * SLOTS // count, (n + 1) * SLOTS // count - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for server, bus in list(zip(servers, buses, strict=True))[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        primaries, replicas = servers[:count], servers[count:]
        for replica, primary in zip(clients[count:], clients, strict=False):
            _replicate(replica, primary)
        for client in clients:
            wait_until(lambda c=client: _is_whole(c, len(servers)), description="the Cluster", timeout_s=40)
        yield Fleet(primaries=tuple(primaries), replicas=tuple(replicas), is_cluster=True)


def _reached_by(address: str) -> tuple[str, ...]:
    return (
        *("--bind", f"127.0.0.1 {address}", "--protected-mode", "no"),
        *("--cluster-announce-ip", address),
    )


def _replicate(replica: Any, primary: Any) -> None:
    name = primary.execute_command("CLUSTER", "MYID")

    def done() -> bool:
        with contextlib.suppress(redis.ResponseError):  # it does not know the other one yet
            replica.execute_command("CLUSTER", "REPLICATE", name)
            return True
        return False

    wait_until(done, description="a replica to know its primary", timeout_s=20)
    wait_until(
        lambda: replica.info("replication").get("master_link_status") == "up",
        description="a replica to have its primary's data",
        timeout_s=20,
    )


def _is_whole(client: Any, count: int) -> bool:
    told = client.execute_command("CLUSTER", "INFO")
    info = (
        told
        if isinstance(told, dict)
        else dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    )
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == count
