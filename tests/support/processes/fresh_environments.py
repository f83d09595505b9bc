"""Makes what an adopter has: a fresh virtual environment outside of the checkout, and the wheel that is published.

Its other packages are those of the tests' environment, by a path, so that nothing is fetched; of this checkout
nothing is there but the wheel. `pip` and the scripts that it would have made for others' packages are the same
programs, by this environment's interpreter. With MAINSTEM_ADOPTER=registry `pip` fetches all of it instead.
"""

from __future__ import annotations

import os
import shlex
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

FETCHES = os.environ.get("MAINSTEM_ADOPTER") == "registry"
SCRIPTS = {
    "pip": "pip._internal.cli.main:main",
    "pytest": "pytest:console_main",
    "uvicorn": "uvicorn:main",
    "celery": "celery.__main__:main",
}


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this checkout into a directory."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [wheel] = directory.glob("*.whl")
    return wheel


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, and a shell in which its programs are found first."""

    directory: Path
    variables: dict[str, str]

    def type(self, line: str, *, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Type a line at a prompt; standard input is no terminal."""
        return subprocess.run(
            ["bash", "-c", line], cwd=cwd, env=self.variables, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=900 if FETCHES else timeout_s, check=False,
        )  # fmt: skip

    def program(self, name: str) -> str:
        """Return where a program of this environment is."""
        return str(self.directory / "bin" / name)


def fresh(directory: Path, wheel: Path) -> Environment:
    """Make an environment in which `pip install mainstem` finds this wheel."""
    place = directory / "venv"
    venv.create(place, with_pip=FETCHES, symlinks=True)
    kept = ("HOME", "LANG", "PIP_INDEX_URL", "PIP_CONFIG_FILE")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    variables |= {
        "PATH": f"{place / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "VIRTUAL_ENV": str(place),
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    if not FETCHES:
        _lend_packages(place)
        # The last one has the meaning of the option's destination: no isolation.
        variables |= {
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_IGNORE_INSTALLED": "1",
            "PIP_NO_COMPILE": "1",
            "PIP_NO_BUILD_ISOLATION": "false",
        }
    return Environment(place, variables)


def _lend_packages(place: Path) -> None:
    """Put the tests' packages behind the environment's own: a path is added, its `.pth` files are not read."""
    [packages] = place.glob("lib/python*/site-packages")
    lent = [path for path in site.getsitepackages() if path.startswith(sys.prefix)]
    (packages / "lent.pth").write_text("\n".join(lent) + "\n")
    for name, target in SCRIPTS.items():
        module, function = target.split(":")
        script = place / "bin" / name
        script.write_text(
            f"#!{shlex.quote(str(place / 'bin' / 'python'))}\nimport sys\nfrom {module} import {function}\n"
            f"sys.exit({function}())\n"
        )
        script.chmod(0o755)


def commands(page: Path, heading: str, **words: str) -> Iterator[str]:
    """Yield the lines that a page's section has its reader type, by their prompts, with these words replaced."""
    section = page.read_text().split(f"\n{heading}", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        if line.startswith("$ "):
            typed = line.removeprefix("$ ").split("  #")[0].strip()
            for old, new in words.items():
                typed = typed.replace(old, new)
            yield typed
