"""Tries tests that failed beside others once more, alone: a few may be the machine's doing, and are named.

Its argument is pytest's exit status.

A test that fails alone, too, fails the build, and so do more than MOST failures. One that passes alone is
unsteady: that is a fault, of the test or of what it tests, and its name is printed to be looked into.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
FAILED: Final = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
MOST: Final = 3
"""More than so many at once are no accident."""


def main() -> int:
    """Return 0 if all that failed pass alone."""
    failed = list(json.loads(FAILED.read_text())) if FAILED.exists() else []
    tests_failed = sys.argv[1:] == ["1"]  # other statuses: interrupted, an error of pytest's, no tests
    if not tests_failed or not 0 < len(failed) <= MOST:
        print(f"{len(failed)} tests failed: not tried again")
        return 1
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *failed]
    tried = subprocess.run(command, cwd=ROOT, check=False)
    if tried.returncode == 0:
        print(
            "UNSTEADY (failed beside others, passed alone; each is a fault to look into):",
            *failed,
            sep="\n  ",
        )
    return tried.returncode


if __name__ == "__main__":
    sys.exit(main())
