"""`mainstem up` runs the whole stack in the foreground, `mainstem valkey` the embedded server alone."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import Final

from mainstem_api.stack import Stack
from mainstem_shared.settings import Settings
from mainstem_shared.store.addresses import check_address
from mainstem_shared.store.embedded import EmbeddedServer, ServerStartError

_POLL_S: Final = 0.5


def up() -> None:
    """Start everything on this machine: embedded Valkey, workers, gateway, Flower."""
    settings = Settings()
    check_address(settings, settings.host)  # what the gateway would refuse is refused before anything runs
    asyncio.run(Stack(settings).run())


def valkey() -> None:
    """Run the embedded Valkey server in the foreground."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopping.set())
    server = EmbeddedServer.start_or_adopt(Settings().data_dir)
    print(f"listening on {server.address}  data and password in {server.data_dir}", flush=True)
    try:
        while not stopping.wait(_POLL_S):
            if not server.is_alive():
                raise ServerStartError(
                    data_dir=server.data_dir, cause="it ended", log=server.data_dir / "valkey.log"
                )
    finally:
        server.stop()
