"""The embedded Valkey server of a data directory: start it, adopt it, find it, stop it.

One server per data directory, at most. It outlives whoever started it (own session), so that a killed
stack is picked up again with its runs. The supervisor and `mainstem valkey` start servers; command line
tools only locate one.
"""

from mainstem_shared.embedded._binary import find_server_binary
from mainstem_shared.embedded._errors import (
    EmbeddedServerError,
    ServerBinaryNotFoundError,
    ServerNotRunningError,
    ServerStartError,
)

__all__ = [
    "EmbeddedServerError",
    "ServerBinaryNotFoundError",
    "ServerNotRunningError",
    "ServerStartError",
    "find_server_binary",
]
