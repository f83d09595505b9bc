"""A Flower without a password can end any run: it serves this machine's own names, and no page that pretends."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.processes.processes import Child
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until


@pytest.fixture
def flower(private_valkey: ValkeyProcess, tmp_path: Path) -> Iterator[int]:
    """Its port."""
    port = free_port()
    env = {name: "" for name in os.environ if name.startswith("FLOWER_")}
    env |= {"MAINSTEM_REDIS_URL": private_valkey.url(0), "MAINSTEM_BROKER_URL": private_valkey.url(1)}
    program = "from mainstem_api.cli import main; main()"
    with Child("flower", "-c", program, "flower", "--port", str(port), env=env, directory=tmp_path):
        wait_until(lambda: _status(port, "localhost") == 200, description="Flower", timeout_s=60)
        yield port


def _status(port: int, *hosts: str, path: str = "/healthcheck", method: str = "GET") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        for host in hosts:
            connection.putheader("Host", host)
        if method == "POST":
            connection.putheader("Content-Length", "0")
        connection.endheaders()
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def test_only_own_names_are_served(flower: int) -> None:
    """Pages, its API, its metrics and its files; whatever name was made to lead here."""
    for name in ("localhost", f"localhost:{flower}", f"127.0.0.1:{flower}", "[::1]", "app.localhost"):
        assert _status(flower, name) == 200, name
    for name in (
        "evil.test",
        f"evil.test:{flower}",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "a@localhost",
    ):
        for path in ("/", "/healthcheck", "/metrics", "/api/workers", "/static/css/flower.css", "/nothing"):
            assert _status(flower, name, path=path) in {400, 421}, (name, path)
        assert _status(flower, name, path="/api/task/revoke/x?terminate=true", method="POST") in {400, 421}
    assert _status(flower, "localhost", "evil.test") in {400, 421}
    assert _status(flower, "localhost", "localhost") in {400, 421}
    assert httpx.get(f"http://127.0.0.1:{flower}/healthcheck", trust_env=False).text == "OK"
