"""What somebody meets first: misspelt settings, values that do not fit, a token to try things out with."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx

from support.clients.commands import MAIN
from support.fakes.identity_provider import SETTINGS
from support.processes.gateways import GatewayThread
from support.processes.servers import ValkeyProcess


def mainstem(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], check=False, env={"PATH": "/usr/bin", **env}, **options
    )


def test_mistakes_in_settings_are_one_line_each():
    """A misspelt name is told with the nearest one; a value that does not fit, with what would; no traceback."""
    done = mainstem("token", "--user", "ann", MAINSTEM_CONCURENCY="5", MAINSTEM_LEASE_S="soon")
    lines = done.stderr.splitlines()
    assert lines == [
        "mainstem: MAINSTEM_CONCURENCY is no setting: did you mean MAINSTEM_CONCURRENCY?",
        "mainstem: MAINSTEM_LEASE_S=soon: input should be a valid number, unable to parse string as a number.",
    ]
    assert done.returncode == 2


def test_a_token_opens_the_gateway(store_url: str, empty_server: ValkeyProcess):
    """As a user, or as an operator; without a secret there is one line."""
    signing = {f"MAINSTEM_{name.upper()}": value for name, value in SETTINGS.items()}
    made = mainstem("token", "--user", "ann", **signing).stdout.strip()
    admin = json.loads(mainstem("token", "-u", "root", "--admin", "--json", **signing).stdout)
    with GatewayThread(store_url, empty_server.url(1), **SETTINGS) as gateway:
        for bearer, user, is_admin in ((made, "ann", False), (admin["token"], "root", True)):
            me = httpx.get(f"{gateway.url}/v1/me", headers={"Authorization": f"Bearer {bearer}"}).json()
            assert (me["user_id"], me["admin"]) == (user, is_admin)
    refused = mainstem("token", "--user", "ann")
    assert refused.returncode == 2
    assert "MAINSTEM_JWT_SECRET" in refused.stderr
