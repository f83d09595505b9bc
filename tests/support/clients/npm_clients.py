"""Real clients, as npm has them: the packages of `stock_clients/`, and Node programs that use them.

A program reads requests from its stdin and answers on its stdout, one JSON text a line. So a test says, in
order, what happens to client, gateway and worker; the client's part happens in the client.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import select
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.paths import TESTS
from support.processes.servers import Guard
from support.requiring import require

used = False
"""Whether anything of it ran."""
HOME = TESTS / "stock_clients"
OLDEST_NODE = 20
PATIENCE_S = 60
_INSTALL = ("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")


def install() -> Path:
    """Have what the lock file names in `stock_clients/node_modules`; returns the folder of the programs.

    Installed once for each lock file. Without Node the test is skipped; in CI it fails.
    """
    global used  # noqa: PLW0603 - the report at the end of the tests asks
    require(_node_version() >= OLDEST_NODE, f"Node {OLDEST_NODE} or newer, with npm")
    lock = hashlib.sha256((HOME / "package-lock.json").read_bytes()).hexdigest()
    stamp = HOME / "node_modules" / ".installed"
    with _alone():
        if not stamp.exists() or stamp.read_text() != lock:
            done = subprocess.run(
                _INSTALL, cwd=HOME, capture_output=True, text=True, timeout=300, check=False
            )
            require(done.returncode == 0, f"npm can install the clients: {done.stderr[-1000:]}")
            stamp.write_text(lock)
    used = True
    return HOME


def versions() -> str:
    """Which clients are installed, in which versions; nothing before `install`."""
    wanted = json.loads((HOME / "package.json").read_text())["dependencies"]
    packages = {name: HOME / "node_modules" / name / "package.json" for name in sorted(wanted)}
    found = [
        f"{name} {json.loads(path.read_text())['version']}"
        for name, path in packages.items()
        if path.exists()
    ]
    return ", ".join([*found, f"openai (PyPI) {metadata.version('openai')}"])


def _node_version() -> int:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return 0
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.removeprefix("v").partition(".")[0])


@contextlib.contextmanager
def _alone() -> Any:
    """Hold a lock that other test runs on this checkout wait for."""
    name = hashlib.sha256(str(HOME).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"mainstem-npm-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Program:
    """A Node program of `stock_clients/` that runs. Use it as a context manager."""

    def __init__(self, name: str) -> None:
        self._path = install() / name

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["node", str(self._path)], cwd=HOME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._guard = Guard(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._guard.dismiss()

    def do(self, action: str, **request: Any) -> Any:
        """Have the program do something, and return what it answers."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": action, **request}) + "\n")
        stdin.flush()
        ready, _, _ = select.select([stdout], [], [], PATIENCE_S)
        assert ready, f"{self._path.name} did not answer {action}"
        line = stdout.readline()
        assert line, f"{self._path.name} ended"
        reply = json.loads(line)
        assert "failed" not in reply, reply["failed"]
        return reply["value"]
