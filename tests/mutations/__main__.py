"""`make mutants` breaks every promise of the contract in turn, and counts the rows whose tests notice.

ROWS=27,31 selects rows. Two copies of the checkout are tried side by side.
"""

from __future__ import annotations

import argparse
import queue
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from mutations import catalogue, trials
from mutations.checkouts import Checkout
from mutations.mutation import Mutation
from mutations.trials import Trial, TrialResult

JOBS: Final = 2


def main() -> None:
    """Try what was asked for; the exit code tells whether every mutation was killed."""
    # Also in the background, where shells have SIGINT ignored: tests that are stopped must stop what they started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--rows", default="", help="comma-separated; by default all")
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--unbroken", action="store_true", help="first, the tests on the code as it is")
    given = parser.parse_args()
    wanted = {int(row) for row in given.rows.split(",") if row}
    work = [(row, m) for row, m in catalogue.by_row().items() if not wanted or row in wanted]
    with tempfile.TemporaryDirectory(prefix="mainstem-mutants-") as directory:
        done = try_all(work, Path(directory), jobs=given.jobs, unbroken=given.unbroken)
    sys.exit(report(done, wanted))


def try_all(
    work: list[tuple[int, Mutation]], directory: Path, *, jobs: int, unbroken: bool = False
) -> list[Trial]:
    """Try rows side by side, each in a copy that no other one uses meanwhile; prints each as it ends."""
    copies: queue.SimpleQueue[Checkout] = queue.SimpleQueue()
    for number in range(min(jobs, len(work))):
        copies.put(Checkout(directory / f"copy-{number}"))
    printing = threading.Lock()

    def one(row: int, mutation: Mutation) -> Trial:
        checkout = copies.get()
        try:
            if unbroken and (wrong := trials.passes_unbroken(checkout, mutation.tests(row))):
                return Trial(row=row, mutation=mutation, result=TrialResult.BROKEN, why=wrong, seconds=0)
            return trials.run(checkout, mutation, row=row)
        finally:
            copies.put(checkout)

    done: list[Trial] = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for future in as_completed([pool.submit(one, row, mutation) for row, mutation in work]):
            trial = future.result()
            done.append(trial)
            with printing:
                say(f"{trial.row:>4} {trial.result:<8} {trial.seconds:5.1f} s  {trial.why[:150]}")
    return done


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(done: list[Trial], wanted: set[int]) -> int:
    """Print what is to be done and the count; returns the exit code."""
    alive = sorted((trial for trial in done if trial.result is not TrialResult.KILLED), key=lambda t: t.row)
    for trial in alive:
        say(f"row {trial.row}: {trial.result}: {trial.mutation.file}: {trial.why}")
    if not wanted:
        for row, reason in catalogue.NOT_MUTABLE.items():
            say(f"row {row}: not mutable: {reason}")
    say(f"{len(done) - len(alive)} of {len(done)} rows' mutations killed")
    return bool(alive)


if __name__ == "__main__":
    main()
