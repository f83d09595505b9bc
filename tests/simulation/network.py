"""The simulated network: connections between processes and servers, with latency, losses, cuts and resets.

Bytes of one direction stay in order, as TCP's do. What is sent while a link is cut is held back until the link is
whole again, or the connection is given up. Both ends of the product's store client come through here: redis-py's
asynchronous connections as transports, its blocking ones as sockets.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from simulation import loops
from simulation.timeline import Process, Timeline

LATENCY_S: Final = 0.0003


class Server(Protocol):
    """What listens at an address (`store.Node`)."""

    name: str

    def accept(self, wire: Wire) -> None: ...
    def received(self, wire: Wire, data: bytes) -> None: ...
    def closed(self, wire: Wire) -> None: ...


@dataclass(slots=True, kw_only=True)
class Weather:
    """How the network is now. Shares are of messages."""

    slow: dict[str, float] = field(default_factory=dict[str, float])
    """By process or address: seconds on top of the usual latency."""
    cut: set[str] = field(default_factory=set[str])
    """Processes that reach nobody, and that nobody reaches."""
    cut_at: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Links, as process and address, over which nothing goes."""
    lost_requests: float = 0.0
    """Share of messages to a server with which the connection breaks before they arrive."""
    lost_replies: float = 0.0
    """Share of replies with which the connection breaks after the server acted."""


class Network:
    """Carries bytes. `listen` says who is at an address; None: nobody."""

    def __init__(self, timeline: Timeline, note: Callable[..., None]) -> None:
        self.timeline = timeline
        self.weather = Weather()
        self.note = note
        self._random = timeline.random("network")
        self._servers: dict[str, Server | None] = {}
        self.wires: dict[int, Wire] = {}
        self._made = 0

    def listen(self, address: str, server: Server | None) -> None:
        self._servers[address] = server

    def server_at(self, address: str) -> Server | None:
        return self._servers.get(address)

    def is_cut(self, process: str, address: str) -> bool:
        weather = self.weather
        return process in weather.cut or address in weather.cut or (process, address) in weather.cut_at

    def latency_s(self, process: str, address: str) -> float:
        """Draw how long a message takes: mostly little, sometimes ten times as long."""
        slow = self.weather.slow
        drawn = self._random.expovariate(1 / LATENCY_S)
        return 0.00005 + drawn + slow.get(process, 0.0) + slow.get(address, 0.0)

    def loses(self, share: float) -> bool:
        return bool(share) and self._random.random() < share

    def changed(self) -> None:
        """Let what was held back go on where links are whole again."""
        for wire in list(self.wires.values()):
            wire.flush()

    def open(self, process: Process, address: str, end: ClientEnd) -> Wire | None:
        """Connect at once; None: nobody listens."""
        server = self._servers.get(address)
        if server is None:
            return None
        self._made += 1
        wire = self.wires[self._made] = Wire(self, self._made, process, address, server, end)
        server.accept(wire)
        return wire

    async def connect(self, process: Process, address: str, factory: Callable[[], Any]) -> tuple[Any, Any]:
        """Open a connection for an event loop."""
        await asyncio.sleep(2 * self.latency_s(process.name, address))
        while self.is_cut(process.name, address):  # noqa: ASYNC110 - faults are data, without events
            await asyncio.sleep(0.05)  # until whoever connects has waited long enough
        protocol = factory()
        transport = Transport(process, protocol)
        wire = self.open(process, address, transport)
        if wire is None:
            raise ConnectionRefusedError(111, "Connection refused")
        transport.wire = wire
        protocol.connection_made(transport)
        return transport, protocol

    def connect_socket(self, process: Process, address: str, timeout_s: float | None) -> Socket:
        """Open a connection for a thread."""
        self.pause_thread(process, 2 * self.latency_s(process.name, address))
        waited = 0.0
        while self.is_cut(process.name, address):
            self.pause_thread(process, 0.05)
            waited += 0.05
            if timeout_s is not None and waited >= timeout_s:
                raise TimeoutError("timed out")
        made = Socket(process, timeout_s)
        wire = self.open(process, address, made)
        if wire is None:
            raise ConnectionRefusedError(111, "Connection refused")
        made.wire = wire
        return made

    @staticmethod
    def pause_thread(process: Process, seconds: float) -> None:
        loops.wait(process, seconds, lambda _: None)


class ClientEnd(Protocol):
    """The end of a connection that a process has."""

    def data(self, data: bytes) -> None: ...
    def lost(self) -> None: ...


class Wire:
    """One connection between a process and a server."""

    def __init__(
        self, network: Network, number: int, process: Process, address: str, server: Server, end: ClientEnd
    ) -> None:
        self.network = network
        self.number = number
        self.process = process
        self.address = address
        self.server = server
        self.is_open = True
        self._end = end
        self._up_at = self._down_at = 0.0
        self._up_held: list[bytes] = []
        self._down_held: list[bytes] = []

    def send(self, data: bytes) -> None:
        """Send bytes to the server."""
        if not self.is_open:
            return
        network = self.network
        latency_s = network.latency_s(self.process.name, self.address)
        self._up_at = max(self._up_at + 1e-7, network.timeline.now + latency_s)
        network.timeline.at(self._up_at, lambda: self._arrive(data))

    def _arrive(self, data: bytes) -> None:
        network = self.network
        if not self.is_open:
            return
        if self._up_held or network.is_cut(self.process.name, self.address):
            self._up_held.append(data)
        elif network.loses(network.weather.lost_requests):
            network.note("lost request", self.process.name, self.number)
            self.break_()
        else:
            network.note(">", self.process.name, self.number, data)
            self.server.received(self, data)

    def reply(self, data: bytes) -> None:
        """Send bytes to the process."""
        if not self.is_open:
            return
        network = self.network
        if network.loses(network.weather.lost_replies):
            network.note("lost reply", self.process.name, self.number)
            self.break_()
            return
        latency_s = network.latency_s(self.process.name, self.address)
        self._down_at = max(self._down_at + 1e-7, network.timeline.now + latency_s)
        network.timeline.at(self._down_at, lambda: self._come(data), self.process)

    def _come(self, data: bytes) -> None:
        if not self.is_open:
            return
        if self._down_held or self.network.is_cut(self.process.name, self.address):
            self._down_held.append(data)
        else:
            self.network.note("<", self.process.name, self.number, data)
            self._end.data(data)

    def flush(self) -> None:
        """Let what was held back go on, if the link is whole."""
        if not self.is_open or self.network.is_cut(self.process.name, self.address):
            return
        up, self._up_held = self._up_held, []
        down, self._down_held = self._down_held, []
        for data in up:
            self.send(data)
        for data in down:
            self.network.timeline.after(1e-6, lambda data=data: self._come(data), self.process)

    def hang_up(self) -> None:
        """Close the connection from the process's side."""
        if self.is_open:
            self._drop()
            latency_s = self.network.latency_s(self.process.name, self.address)
            self.network.timeline.after(latency_s, lambda: self.server.closed(self))

    def break_(self) -> None:
        """Break the connection: both ends learn of it."""
        if self.is_open:
            self._drop()
            self.server.closed(self)
            latency_s = self.network.latency_s(self.process.name, self.address)
            self.network.timeline.after(latency_s, self._end.lost, self.process)

    def _drop(self) -> None:
        self.is_open = False
        self.network.wires.pop(self.number, None)
        self._up_held.clear()
        self._down_held.clear()


class Transport(asyncio.Transport):
    """The end of an event loop."""

    wire: Wire

    def __init__(self, process: Process, protocol: Any) -> None:
        super().__init__()
        self._process = process
        self._protocol = protocol
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Any) -> None:
        if not self._closing:
            self.wire.send(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing: readers here are quick."""

    def resume_reading(self) -> None:
        """Nothing."""

    def can_write_eof(self) -> bool:
        return False

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.wire.hang_up()
            timeline = self._process.timeline
            timeline.at(timeline.now, self._tell_lost, self._process)

    def _tell_lost(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            _in_loop(self._process, lambda: protocol.connection_lost(None))

    def data(self, data: bytes) -> None:
        if not self._closing:
            _in_loop(self._process, lambda: self._protocol.data_received(data))

    def lost(self) -> None:
        self._closing = True
        self._tell_lost()


def _in_loop(process: Process, call: Callable[[], None]) -> None:
    loop: asyncio.AbstractEventLoop = process.kept["loop"]
    asyncio._set_running_loop(loop)
    try:
        call()
    finally:
        asyncio._set_running_loop(None)


class Socket:
    """The end of a thread: what redis-py's blocking connection uses of a socket."""

    wire: Wire

    def __init__(self, process: Process, timeout_s: float | None) -> None:
        self._process = process
        self._timeout_s = timeout_s
        self._received = bytearray()
        self._lost = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def has_ended(self) -> bool:
        return self._lost

    def settimeout(self, timeout: float | None) -> None:
        self._timeout_s = timeout

    def gettimeout(self) -> float | None:
        return self._timeout_s

    def setsockopt(self, *_: Any) -> None:
        """Nothing to set."""

    def shutdown(self, _: int) -> None:
        self.close()

    def close(self) -> None:
        self._lost = True
        self.wire.hang_up()

    def sendall(self, data: Any) -> None:
        if self._lost:
            raise ConnectionResetError(104, "Connection reset by peer")
        self.wire.send(bytes(data))

    def recv_into(self, buffer: Any) -> int:
        if not self._received and not self._lost:
            loops.wait(self._process, self._timeout_s, self._waiting.append)
        if not self._received:
            if self._lost:
                return 0
            raise socket.timeout("timed out")  # noqa: UP041 - as sockets do
        size = min(len(buffer), len(self._received))
        buffer[:size] = self._received[:size]
        del self._received[:size]
        return size

    def data(self, data: bytes) -> None:
        self._received += data
        self._wake()

    def lost(self) -> None:
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
