"""Fixes that can be taken out, each with the fault that comes back; a simulation must find it from seeds.

A revert replaces snippets of the product's source as it is imported, in this process alone. `python -m
simulation.reverts` looks for each fault, and prints the table of docs/simulation.md.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Revert:
    """A fix that is taken out. `changes`: module, snippet that stands there exactly once, and what it becomes."""

    fault: str
    changes: tuple[tuple[str, str, str], ...]


_SUSPICIONS: Final = "mainstem_shared.coordination.suspicions"
_SWEEPING: Final = "mainstem_shared.operations.sweeping"
_NODE_WRITERS: Final = "mainstem_shared.eventlog.writing.node_writers"
_CHANNELS: Final = "mainstem_shared.eventlog.writing.channels"
_LOST_CHANGES: Final = "mainstem_shared.operations.lost_changes"
_FAILURES: Final = "mainstem_shared.store.failures"

REVERTS: Final = {
    "shared-epoch": Revert(
        fault="a change of control opens the next epoch, the same one after a fail-over",
        changes=(("mainstem_shared.model.ids", "{secrets.randbelow(EPOCH_GAP)}.", "0."),),
    ),
    "no-grace": Revert(
        fault="a sweeper judges owners by what it saw before a fail-over",
        changes=((_SUSPICIONS, "if former.identity and former.identity != server.identity:", "if False:"),),
    ),
    "own-lease": Revert(
        fault="a sweeper judges owners by a server that does not have its own lease, after one look",
        changes=(
            (_SWEEPING, "if self.owner() in missing:", "if False:"),
            (_SUSPICIONS, "missing & self._missing", "set(missing)"),
            (_SUSPICIONS, "if former.identity and former.identity != server.identity:", "if False:"),
        ),
    ),
    "no-beat": Revert(
        fault="nobody beats at once who reaches another server",
        changes=(
            ("mainstem_workers.housekeeping", "on_reached=lease.beat_soon,", "on_reached=lambda: None,"),
            (_SUSPICIONS, "if former.identity and former.identity != server.identity:", "if False:"),
        ),
    ),
    "readonly-fatal": Revert(
        fault="READONLY is taken for a failure of the call",
        changes=(
            (_FAILURES, '{"WRONGTYPE", "CROSSSLOT",', '{"READONLY", "UNBLOCKED", "WRONGTYPE", "CROSSSLOT",'),
        ),
    ),
    "readonly-stays": Revert(
        fault="a connection to a demoted primary is kept",
        changes=(
            (_FAILURES, "return code_of(error) in _ELSEWHERE", "return False"),
            (
                "mainstem_shared.store.raw_connections",
                'if isinstance(role, list) and role[0] == b"slave":',
                "if False:",
            ),
        ),
    ),
    "pooled-kept": Revert(
        fault="pooled connections to a demoted primary are kept where the shared one was lost",
        changes=(("mainstem_shared.store.connections", "connection.is_elsewhere = True", "pass"),),
    ),
    "concluded-forgotten": Revert(
        fault="changes that a fail-over lost are not made again",
        changes=((_LOST_CHANGES, "if not self._watched or change.name in NOT_REPEATED", "if True"),),
    ),
    "no-grace-for-claims": Revert(
        fault="runs of a store that went back are claimed before their owners said that they ended them",
        changes=(
            (_LOST_CHANGES, "wait_s = self._went_back + GRACE_S", "wait_s = -self._went_back * 0 - GRACE_S"),
        ),
    ),
    "reply-taken-for-lost": Revert(
        fault="after a lost reply the writer sends again without asking the log",
        changes=(
            (_CHANNELS, "elif self.group is not None and found.top == self.group.last:", "elif False:"),
            (_CHANNELS, "elif found.top == self.acknowledged:", "elif True:"),
        ),
    ),
    "tail-not-repaired": Revert(
        fault="a log that lost acknowledged entries is not written anew",
        changes=((_CHANNELS, "elif found.top == self.acknowledged:", "elif True:"),),
    ),
    "no-probe": Revert(
        fault="after a reconnect the log is not asked what became of what was in flight",
        changes=(
            (
                _NODE_WRITERS,
                "        self._probe_all()\n        self._connected(is_connected=True)",
                "        self._connected(is_connected=True)",
            ),
        ),
    ),
    "abort-mail-lost": Revert(
        fault="the message of an abort goes to a mailbox that nobody reads",
        changes=(
            (
                "mainstem_shared.coordination.mailboxes",
                "box = keys.mailbox(owner)",
                'box = keys.mailbox(owner + "x")',
            ),
        ),
    ),
    "overtaken-stop": Revert(
        fault="a stop that overtakes the reply to the claim is dropped",
        changes=(
            (
                "mainstem_tasks.execution.runtime",
                "self.claiming[message.run_id] = message.reason",
                "pass",
            ),
        ),
    ),
    "message-not-repeated": Revert(
        fault="a message that the broker lost is not published again",
        changes=((_SWEEPING, "return record.published_ms + pause - now", "return 10**9"),),
    ),
    "own-clock": Revert(
        fault="each machine goes by its own clock",
        changes=(
            (
                "mainstem_shared.model.time",
                "if self._ahead_ns is None:\n            return",
                "if True:\n            return",
            ),
        ),
    ),
    "orphans-kept": Revert(
        fault="a run whose claim landed and whose task died stays with a living owner",
        changes=(("mainstem_workers.housekeeping", "await orphans.end_all(self.runtime)", "pass"),),
    ),
    "no-peek": Revert(
        fault="readers do not look whether the log became shorter",
        changes=(
            (
                "mainstem_shared.eventlog.reading.tail_connections",
                "        await self._peek(connection, list(self.followed_runs.values()))\n",
                "",
            ),
            (
                "mainstem_shared.eventlog.reading.tail_connections",
                "if now - self._peeked_at >= IDLE_S / 2:",
                "if False:",
            ),
        ),
    ),
}


class _Loader(SourceFileLoader):
    """Loads a module with its fix taken out."""

    def __init__(self, name: str, path: str, changes: Sequence[tuple[str, str]]) -> None:
        super().__init__(name, path)
        self._changes = changes

    def get_code(self, fullname: str) -> CodeType | None:
        source = self.get_source(fullname)
        assert source is not None
        return compile(applied(source, self._changes, name=fullname), self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, revert: Revert) -> None:
        self._revert = revert

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        changes = [(old, new) for module, old, new in self._revert.changes if module == fullname]
        spec = PathFinder.find_spec(fullname, path, target) if changes else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, changes)
        return spec


def applied(source: str, changes: Sequence[tuple[str, str]], *, name: str) -> str:
    """Return a source with its fix taken out.

    Raises:
        ValueError: a snippet does not stand there exactly once.
    """
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(
                f"{name} has {source.count(old)} times: {old!r}. Move the revert along with the code."
            )
        source = source.replace(old, new)
    return source


def take_out(name: str) -> None:
    """Take a fix out of the product, before it is imported."""
    sys.meta_path.insert(0, _Finder(REVERTS[name]))


MINUTES: Final = 3.0
_FOUND: Final = re.compile(r"after (\d+) s, ([\d.]+) fleet-hours:\n  seed (\d+)(?:.*?)\n  (\d): ", re.DOTALL)


def find(name: str, *, minutes: float) -> str:
    """Look for the fault of a revert; returns a row of the table."""
    done = subprocess.run(
        [sys.executable, "-m", "simulation", "--revert", name, "--minutes", str(minutes), "--as-found"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    found = _FOUND.search(done.stdout)
    told = f"{found[1]} s, {found[2]} h, seed {found[3]}, property {found[4]}" if found else "**not found**"
    return f"| `{name}` | {REVERTS[name].fault} | {told} |"


def main() -> None:
    """Look for each fault; arguments name some of them."""
    for name in sys.argv[1:] or REVERTS:
        sys.stdout.write(f"{find(name, minutes=MINUTES)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
