"""The page of docs/ that follows from the scripts: every verb, with its arguments and answers (`verbs.md`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from model.mutants import file_of

DOCS: Final = Path(__file__).parents[2] / "docs"
VERBS: Final = DOCS / "verbs.md"
GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "A run's life": ("start", "published", "claim", "handover", "seal", "stop", "finish"),
    "What its owner keeps": ("snapshot", "resync", "checkpoint", "effect", "inbox"),
    "People": ("pause", "resolve", "steer", "describe"),
    "Threads, and runs that are over": ("promote", "copy", "compact", "release", "forget", "erase", "move"),
    "Reads": ("read", "page", "dump"),
    "Callbacks": ("set_callback", "note_attempt", "redeliver", "drop_callbacks"),
    "What runs share": ("take_due", "take_slot", "admit", "enlist", "keep_event", "reserve", "settle"),
    "The pace of a provider": ("draw", "correct", "shut"),
}
"""The order of the verbs' page; a script that is missing here is missing there."""
_HEADER: Final = re.compile(r"#!lua(?P<flags>[^\n]*)\n--\[\[\n(?P<text>.*?)\n--\]\]", re.DOTALL)


def verbs_page() -> str:
    """The headers of all scripts, as they are."""
    lines = [VERBS_HEAD]
    for group, scripts in GROUPS.items():
        lines.append(f"\n## {group}\n")
        for script in scripts:
            found = _HEADER.match(file_of(script))
            assert found is not None, script
            about, _, rest = found["text"].partition("KEYS  ")
            flags = found["flags"].replace("flags=", "").split()
            lines.append(
                f"### {script}\n\n{about.strip()}{_flags(flags)}\n\n```text\nKEYS  {rest.rstrip()}\n```\n"
            )
    return "\n".join(lines)


def _flags(flags: Sequence[str]) -> str:
    """What the script's first line promises the server."""
    words = {
        "no-writes": "It writes nothing.",
        "allow-oom": "The server runs it when it is out of memory, too.",
    }
    return "".join(f"\n\n{words[flag]}" for flag in flags)


VERBS_HEAD: Final = """# Every verb

For developers of another implementation: what each script is called with, and each of its answers.

The scripts' headers, as `shared/mainstem_shared/transitions/lua/` has them; a test compares. [protocol.md](protocol.md) says
what they are for, `make guards` what goes wrong without each of their conditions. A verb is called with `EVALSHA`; all its
`KEYS` are in one slot. Arguments and answers are text: numbers in decimal, times in milliseconds since the epoch on the
store's clock, cursors as `<epoch>-<seq>`. Where an argument may be missing, it is empty. An answer is a list that begins
with a word; a verb that refuses has changed nothing, unless its header says so.
"""
