"""The npm package of the TypeScript client, built from this checkout as `make npm` does."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.clients import npm_clients
from support.paths import ROOT

HOME = ROOT / "api" / "typescript"


@functools.cache
def build() -> Path:
    """Build and pack the package, once for all processes of a test run; return the packed file."""
    npm_clients.install()  # says so if there is no Node
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}"
    target = Path(tempfile.gettempdir()) / f"mainstem-npm-{run}"
    with _alone():
        if not (packed := list(target.glob("*.tgz"))):
            done = subprocess.run(
                [HOME / "pack", sys.executable, target],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
            atexit.register(shutil.rmtree, target, ignore_errors=True)
            packed = list(target.glob("*.tgz"))
    [path] = packed
    return path


def bundle(source: Path, target: Path) -> None:
    """Bundle a page's script with what it imports, as an app does."""
    build()
    done = subprocess.run(
        [HOME / "node_modules/.bin/esbuild", source, "--bundle", "--format=esm", f"--outfile={target}",
         "--jsx=automatic", "--log-level=warning"],
        env={"NODE_PATH": str(HOME / "node_modules"), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def names_in(packed: Path) -> set[str]:
    """Return the names of the files in a packed package."""
    with tarfile.open(packed) as archive:
        return {name.removeprefix("package/") for name in archive.getnames()}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    name = hashlib.sha256(str(HOME).encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"mainstem-npm-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
