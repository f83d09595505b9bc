"""Checks that the public Python names are fully typed: what users import, with all of their members.

`basedpyright --verifytypes` looks at every module of a package; this keeps what `__all__` of the public
modules names, and fails unless each of those types is known and stated. `make check` calls it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROOTS = ("api", "tasks", "workers", "shared")
PUBLIC = {
    "mainstem_api": ("mainstem_api", "mainstem_api.gateway"),
    "mainstem_tasks": ("mainstem_tasks", "mainstem_tasks.testing"),
    "mainstem_workers": ("mainstem_workers", "mainstem_workers.pool", "mainstem_workers.testing"),
    "mainstem_shared": ("mainstem_shared.errors", "mainstem_shared.guards"),
}
"""Packages, and the modules of theirs whose `__all__` is public."""
FOREIGN = ("Type of metaclass unknown", "Type of base class unknown")
"""Said of classes that inherit from Celery's, which have no types: nothing here can change it."""

EXEMPT = {
    "mainstem_api.client.runs.Runs.": "derived from AsyncRuns by a function whose result is typed",
    "mainstem_tasks.celery_support.async_task.AsyncTask.": "overrides what Celery leaves untyped",
    "mainstem_workers.pool.taskpool.TaskPool.": "called by Celery, with jobs that inherit from its classes",
    "mainstem_workers.testing.System.": "made of containers whose base classes pytest-celery leaves untyped",
}
"""Names that begin so, and why their types cannot be stated here."""


def main() -> int:
    complaints = [complaint for package in PUBLIC for complaint in untyped(package)]
    print(*complaints, sep="\n", end="\n" if complaints else "")
    count = sum(len(list(names(package))) for package in PUBLIC)
    print(f"public types: {count} public names, {len(complaints)} members without a known type")
    return 1 if complaints else 0


def names(package: str) -> Iterator[str]:
    """Yield the full names of a package's public objects, as they are where they are defined."""
    for module in PUBLIC[package]:
        found = importlib.import_module(module)
        for name in found.__all__:
            value = getattr(found, name)
            home = getattr(value, "__module__", None) or module
            yield f"{home}.{getattr(value, '__qualname__', name)}"


def untyped(package: str) -> Iterator[str]:
    """Yield what is wrong with the types of a package's public names."""
    public = tuple(names(package))
    for symbol in report(package):
        name: str = symbol["name"]
        if (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]) or name.startswith(tuple(EXEMPT)):
            continue
        if name in public or name.startswith(tuple(f"{one}." for one in public)):
            said = [one["message"].split("\n")[0] for one in symbol["diagnostics"]]
            if said := [message for message in said if message not in FOREIGN]:
                yield f"{name}: {'; '.join(said)}"


def report(package: str) -> list[dict[str, Any]]:
    """Return what the type checker says about each symbol of a package."""
    command = ["basedpyright", "--pythonpath", sys.executable, "--verifytypes", package, "--ignoreexternal"]
    paths = os.pathsep.join(str(ROOT / root) for root in ROOTS)
    ran = subprocess.run(
        [Path(sys.executable).with_name(command[0]), *command[1:], "--outputjson"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        check=False,
    )
    found = json.loads(ran.stdout)["typeCompleteness"]
    if not found.get("pyTypedPath"):
        raise SystemExit(f"{package} has no py.typed that the type checker finds")
    return found["symbols"]


if __name__ == "__main__":
    sys.exit(main())
