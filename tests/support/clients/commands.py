"""The commands people type, against a real gateway, a real worker and a real store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from mainstem_api.cli import build_app
from support.processes.gateways import GatewayThread
from support.processes.servers import ValkeyProcess

MAIN = "from mainstem_api.cli import main; main()"


class System:
    """A store with its broker, one worker, one gateway; shared by this module's tests, whose threads differ."""

    def __init__(self, valkey: ValkeyProcess, gateway: GatewayThread) -> None:
        self.valkey = valkey
        self.gateway = gateway
        self.env = {
            "MAINSTEM_REDIS_URL": valkey.url(0),
            "MAINSTEM_BROKER_URL": valkey.url(1),
            "MAINSTEM_URL": gateway.url,
        }

    def call(self, *arguments: str, **env: str) -> Result:
        """Run a command in this process."""
        return CliRunner().invoke(build_app([arguments[0]]), arguments, env={**self.env, **env})

    def run_demo(self, *more: str, **given: object) -> Result:
        return self.call("run", "--engine", "demo", "--input", json.dumps(given), *more)

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Run a command as people do: in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], env={**os.environ, **self.env}, **options
        )
