"""The embedded servers of a data directory that has several: static shards; the first is the broker, too.

The first one's directory is the data directory itself, as if it were alone; the others are in `nodes/2` and
on. How many there are is what was begun with: data is where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mainstem_shared.store.embedded._server import BROKER_DB, STORE_DB, EmbeddedServer


class EmbeddedFleet:
    """Running servers. Get them from `start_or_adopt` or `locate`."""

    def __init__(self, data_dir: Path, servers: Sequence[EmbeddedServer]) -> None:
        self._data_dir = data_dir
        self.servers = tuple(servers)

    @classmethod
    def start_or_adopt(cls, data_dir: Path, *, nodes: int) -> EmbeddedFleet:
        """Return the directory's servers, answering; `nodes` of them, or as many as it began with. Blocking.

        Raises:
            ServerBinaryNotFoundError, ServerStartError: as `EmbeddedServer.start_or_adopt`.
        """
        wanted = max(nodes, len(_directories(data_dir)))
        places = [data_dir, *(_node(data_dir, number) for number in range(2, wanted + 1))]
        return cls(data_dir, [EmbeddedServer.start_or_adopt(place) for place in places])

    @classmethod
    def locate(cls, data_dir: Path) -> EmbeddedFleet:
        """Return the servers that run on the directory, touching nothing.

        Raises:
            ServerNotRunningError: one of them does not run, or does not answer.
        """
        return cls(data_dir, [EmbeddedServer.locate(place) for place in _directories(data_dir)])

    @property
    def store_url(self) -> str:
        """The store's address: all of the servers."""
        return ",".join(server.url(STORE_DB) for server in self.servers)

    @property
    def broker_url(self) -> str:
        """The broker's address: the first server's."""
        return self.servers[0].url(BROKER_DB)

    @property
    def addresses(self) -> str:
        """The servers without passwords, to be shown."""
        return ", ".join(server.address for server in self.servers)

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(server.port for server in self.servers)

    def is_alive(self) -> bool:
        """Tell whether all processes still exist."""
        return all(server.is_alive() for server in self.servers)

    def revive(self) -> EmbeddedFleet:
        """Return the servers, those that were gone started again. Blocking; raises as `start_or_adopt`."""
        return self.start_or_adopt(self._data_dir, nodes=len(self.servers))

    def stop(self) -> None:
        """End all servers, and return when they are gone. Blocking."""
        for server in self.servers:
            server.stop()


def _node(data_dir: Path, number: int) -> Path:
    return data_dir / "nodes" / str(number)


def _directories(data_dir: Path) -> list[Path]:
    """Return the directories of the servers that the data directory has."""
    found, number = [data_dir], 2
    while (place := _node(data_dir, number)).is_dir():
        found.append(place)
        number += 1
    return found
