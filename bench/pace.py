"""How fast the machine's cores are: others on its host slow them down, and no load average shows it.

A process of its own times a fixed piece of Python five times a second, by its CPU time: waiting for a core
does not count, a core that does less in the same time does. It takes a four-hundredth of a core.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Self

STEPS = 5_000
EVERY_S = 0.2
FASTEST = 0.05
"""The share of all samples that counts as the core undisturbed."""


class Pace:
    """Samples while it is entered; at its end the sampling process is gone."""

    def __enter__(self) -> Self:
        self._samples = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen([sys.executable, __file__], stdout=self._samples)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._samples.close()

    def since(self, begun: float) -> float:
        """How much longer the same work took since `time.monotonic()` was `begun` than when it is fastest."""
        self._samples.seek(0)
        samples = [(float(at), float(took)) for at, took in map(str.split, self._samples)]
        took = sorted(took for _, took in samples)
        recent = [took for at, took in samples if at >= begun]
        return statistics.fmean(recent) / took[int(len(took) * FASTEST)] if recent else 1.0


def main() -> None:
    """Print when, and how long the work took, for ever."""
    while True:
        print(time.monotonic(), work(), flush=True)
        time.sleep(EVERY_S)


def work() -> float:
    """Return the CPU seconds of a fixed amount of work."""
    begun, seen, total = time.process_time(), dict.fromkeys(range(256), 0), 0
    for n in range(STEPS):
        seen[n & 255] = total
        total += seen[(n * 7) & 255] & 0xFFFF
    return time.process_time() - begun


if __name__ == "__main__":
    main()
