"""A mutation breaks one promise of `docs/contract.md` in product code; the tests that its row cites must notice.

Mutations are data: a snippet that stands exactly once in a file, and what it becomes. Whoever changes that code
is told by `tests/unit/test_mutations.py` to move the mutation along. Applied to copies only (`checkouts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.paths import ROOT

_ROW: Final = re.compile(r"^\| (\d+) \| .* \| (.*) \|$", re.MULTILINE)
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py::\w+)`")

SHARED: Final = "shared/mainstem_shared"
TASKS: Final = "tasks/mainstem_tasks"
API: Final = "api/mainstem_api"
WORKERS: Final = "workers/mainstem_workers"
LUA: Final = f"{SHARED}/transitions/lua"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """What breaks the promise of `rows`.

    Attributes:
        rows: several only if they promise the same; each row's own tests must notice.
        file: relative to the checkout.
        old: a snippet that stands exactly once in the file.
        new: what it becomes.
        only: names of the tests that are run, of those that the rows cite; by default all of them.
    """

    rows: tuple[int, ...]
    file: str
    old: str
    new: str
    only: tuple[str, ...] = ()

    def apply(self, root: Path) -> None:
        """Mutate a copy of the checkout.

        Raises:
            ValueError: the snippet does not stand there exactly once.
        """
        path = root / self.file
        path.write_text(self.applied(path.read_text()))

    def applied(self, source: str) -> str:
        """Return the mutated source."""
        found = source.count(self.old)
        if found != 1:
            raise ValueError(
                f"the mutation of row {self.rows[0]} finds its snippet {found} times in {self.file}: {self.old!r}. "
                "Move the mutation to where the promise is kept now (tests/mutations)."
            )
        return source.replace(self.old, self.new)

    def tests(self, row: int) -> list[str]:
        """Return the tests to run for a row."""
        cited = cited_tests()[row]
        return [test for test in cited if not self.only or test.rpartition("::")[2] in self.only]


def cited_tests() -> dict[int, list[str]]:
    """Return the node ids that each row of the contract cites."""
    text = (ROOT / "docs" / "contract.md").read_text()
    return {int(row): _TEST.findall(stand) for row, stand in _ROW.findall(text)}
