"""The embedded Valkey server of a data directory is started, adopted, found and stopped here.

One server per data directory, or as many as MAINSTEM_NODES says. It outlives whoever started it (own
session), so that a killed stack is picked up again with its runs. The supervisor and `mainstem valkey` start
servers; command line tools only locate one.
"""

from mainstem_shared.store.embedded._binary import find_server_binary
from mainstem_shared.store.embedded._errors import (
    EmbeddedServerError,
    ServerBinaryNotFoundError,
    ServerNotRunningError,
    ServerStartError,
)
from mainstem_shared.store.embedded._files import free_port
from mainstem_shared.store.embedded._fleet import EmbeddedFleet
from mainstem_shared.store.embedded._locks import FileLock
from mainstem_shared.store.embedded._server import BROKER_DB, STORE_DB, EmbeddedServer

__all__ = [
    "BROKER_DB",
    "STORE_DB",
    "EmbeddedFleet",
    "EmbeddedServer",
    "EmbeddedServerError",
    "FileLock",
    "ServerBinaryNotFoundError",
    "ServerNotRunningError",
    "ServerStartError",
    "find_server_binary",
    "free_port",
]
