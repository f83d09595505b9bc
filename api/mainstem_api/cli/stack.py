"""`mainstem up` runs the whole stack in the foreground, `mainstem valkey` the embedded server alone."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Final

from mainstem_api.stack import Stack
from mainstem_shared.settings import Settings
from mainstem_shared.store.embedded import EmbeddedFleet, ServerStartError
from mainstem_shared.store.loopback import check_address

_POLL_S: Final = 0.5


def up() -> None:
    """Start everything on this machine: embedded Valkey, workers, gateway, Flower."""
    settings = Settings()
    check_address(settings, settings.host)  # what the gateway would refuse is refused before anything runs
    asyncio.run(Stack(settings).run())


def valkey() -> None:
    """Run the embedded Valkey server in the foreground; as many as MAINSTEM_NODES says."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopping.set())
    settings = Settings()
    servers = EmbeddedFleet.start_or_adopt(settings.data_dir, nodes=settings.nodes)
    first = servers.servers[0]
    print(f"listening on {servers.addresses}  data and password in {first.data_dir}", flush=True)
    try:
        while not stopping.wait(_POLL_S):
            for server in servers.servers:
                if not server.is_alive():
                    log = server.data_dir / "valkey.log"
                    raise ServerStartError(data_dir=server.data_dir, cause="it ended", log=log)
    finally:
        servers.stop()
