"""`make simulate` lives through histories of the fleet, each from a seed, until the time is over or one fails.

SEED=n repeats one; REVERT=name takes a fix out first. A failing history is made smaller before it is shown.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

SAMPLE: Final = (4, 13)
"""Seeds that tests repeat, in short histories."""
SHORT_S: Final = 20.0
_wall_clock = time.monotonic


def main() -> int:
    """Do what was asked for; the exit code tells whether every history was as it should be."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of texts are in an order that hashes decide
        os.execve(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})  # fmt: skip
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeat one history")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many")
    parser.add_argument("--minutes", type=float, default=10.0, help="of real time")
    parser.add_argument("--histories", type=int, default=10**9, help="at most so many")
    parser.add_argument("--steady", type=float, help="hours of light load without faults, to measure")
    parser.add_argument("--trace", type=Path, help="write what happened there")
    parser.add_argument("--revert", default="", help="take a fix out: see `simulation.reverts`")
    parser.add_argument("--sample", type=int, help="print the hashes of so many short histories, as JSON")
    parser.add_argument("--go-on", action="store_true", help="go on after a failure")
    parser.add_argument("--as-found", action="store_true", help="do not make a failing history smaller")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    logging.captureWarnings(True)
    if given.revert:
        from simulation import reverts

        reverts.take_out(given.revert)
    if given.sample is not None:
        return _sample(given.sample)
    if given.steady is not None:
        return _steady(given.steady)
    if given.seed is not None:
        return _repeat(given.seed, given.trace)
    return _search(given)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _sample(count: int) -> int:
    from simulation import swarm, trial

    found: dict[str, object] = {}
    for seed in SAMPLE[:count]:
        result = trial.run(swarm.shortened(swarm.plan(seed), SHORT_S))
        found[str(seed)] = {"hash": result.hash, "runs": result.runs, "violations": result.violations}
    say(json.dumps(found))
    return 0


def _steady(hours: float) -> int:
    from simulation import swarm, trial

    result = trial.run(swarm.steady(0, hours=hours))
    say(
        f"{result.hours:.2f} fleet-hours in {result.cpu_s:.1f} s of one core: "
        f"{result.hours * 3600 / result.cpu_s:.0f} in an hour; {result.runs} runs, {result.commands} commands"
    )
    return _told(result.violations)


def _told(violations: list[str]) -> int:
    for violation in violations:
        say(f"  {violation}")
    return bool(violations)


def _repeat(seed: int, trace: Path | None) -> int:
    from simulation import trial

    result = trial.of_seed(seed, trace=trace is not None)
    for line in trial.describe(result):
        say(line)
    if trace is not None:
        trace.write_text("".join(result.trace or ()))
    return bool(result.violations)


def _search(given: argparse.Namespace) -> int:
    from simulation import trial

    began, hours, cpu_s, failed = _wall_clock(), 0.0, 0.0, 0
    seed = given.first
    while _wall_clock() - began < given.minutes * 60 and seed < given.first + given.histories:
        result = trial.of_seed(seed)
        hours, cpu_s = hours + result.hours, cpu_s + result.cpu_s
        if result.violations:
            failed += 1
            say(f"after {_wall_clock() - began:.0f} s, {hours:.1f} fleet-hours:")
            for line in trial.describe(result):
                say(f"  {line}")
            if not given.go_on:
                if not given.as_found:
                    _minimise(result)
                return 1
        seed += 1
    say(
        f"{seed - given.first} histories, {hours:.1f} fleet-hours in {cpu_s:.0f} s of a core; {failed} failed"
    )
    return bool(failed)


def _minimise(failing: object) -> None:
    """Take out every fault and start without which the history still fails."""
    from simulation import trial

    assert isinstance(failing, trial.Result)
    plan = failing.plan
    for name in ("faults", "starts"):
        for one in list(getattr(plan, name)):
            smaller = replace(plan, **{name: tuple(it for it in getattr(plan, name) if it != one)})
            if trial.run(smaller).violations:
                plan = smaller
    say("the smallest that still fails:")
    for line in trial.describe(trial.run(plan)):
        say(f"  {line}")
    say(f"  starts: {', '.join(f'{at:.2f}' for at in plan.starts)}")


if __name__ == "__main__":
    sys.exit(main())
