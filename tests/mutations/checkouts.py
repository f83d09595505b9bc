"""A copy of the checkout, with an environment of its own in which every process imports the copy.

Not only `PYTHONPATH`: tests give their worker processes another one. The copy's interpreter knows the copied
packages first, then everything that is installed beside this one.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final

from support.paths import ROOT

PACKAGES: Final = ("shared", "tasks", "workers", "api")
COPIED: Final = (
    *PACKAGES,
    "tests",
    "docs",
    "examples",
    "deploy",
    "requirements",
    "pyproject.toml",
    "README.md",
)
_LEFT: Final = shutil.ignore_patterns("__pycache__", "node_modules", ".*_cache", "*.pyc")


class Checkout:
    """A copy in a directory that is not there yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=_LEFT)
            else:
                shutil.copy2(source, root / name)
        self.python = self._make_environment()
        # By digests of the sources: a mutated one is compiled again, whatever its size and time are.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        for name in PACKAGES:
            compileall.compile_dir(root / name, quiet=1, invalidation_mode=mode)

    def _make_environment(self) -> Path:
        home = self.root / ".venv"
        venv.EnvBuilder(with_pip=False, symlinks=True).create(home)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        paths = [*(str(self.root / name) for name in PACKAGES), sysconfig.get_path("purelib")]
        (home / "lib" / version / "site-packages" / "copy.pth").write_text("\n".join(paths) + "\n")
        python = home / "bin" / "python"
        for name in ("mainstem", "celery"):
            _, _, rest = (Path(sys.executable).with_name(name)).read_text().partition("\n")
            script = home / "bin" / name
            script.write_text(f"#!{python}\n{rest}")
            script.chmod(0o755)
        return python

    @property
    def env(self) -> dict[str, str]:
        """What processes get beside `python`."""
        return {**os.environ, "PYTHONPATH": ""}
