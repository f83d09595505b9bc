"""What the documentation names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mainstem_shared.model import ids
from mainstem_shared.model.buckets import TAGS, bucket_of
from mainstem_shared.store import keys
from support.paths import ROOT
from support.sources import parse

ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_paths_exist():
    """Each line of the paths of a token, an abort and a resume names a function or a class that is there."""
    lines = re.findall(r"^(\S+\.py):(\S+) ", ARCHITECTURE, re.MULTILINE)
    assert len(lines) == 8 + 8 + 7
    for path, name in lines:
        outer, _, inner = name.partition(".")
        tree = parse((ROOT / path).read_text())
        found = next(node for node in tree.body if getattr(node, "name", None) == outer)
        if inner:
            assert inner in {getattr(node, "name", None) for node in ast.walk(found)}, (path, name)


def test_every_key_is_in_the_table():
    """The table of keys has a row for each key that the code can spell."""
    run_id = ids.run_id("t", "thread", ids.uuid7())
    tag, unique = ids.split(run_id)
    user = ids.user_tag("t", "u")
    spelled = [
        *keys.run(run_id),
        keys.thread("t", "thread"),
        keys.thread_runs("t", "thread"),
        keys.idempotency(run_id, "x" * 32),
        keys.memory_of(run_id, "<engine>"),
        *keys.events("t", "u", "event"),
        keys.run_children(run_id),
        keys.lease("owner"),
        keys.owned("owner"),
        keys.mailbox("owner"),
        keys.mail_read("owner"),
        keys.wake("tailer"),
        keys.user_runs("t", "u"),
        keys.user_slots("t", "u"),
        *keys.admission("queue"),
        keys.pace("openai"),
        *keys.upload(ids.below(ids.uploads_tag("t", "u"), ids.unique(run_id))),
        *(value for name, value in vars(keys).items() if name.isupper() and str(value).startswith("ms:")),
    ]
    table = {row.split("`")[1] for row in ARCHITECTURE.splitlines() if row.startswith("| `ms:")}
    names = (
        (ids.event_tag("t", "u", "event"), "<event>"),
        (ids.uploads_tag("t", "u"), "<user>"),
        (tag, "<tag>"),
        (f"{{{TAGS[bucket_of(tag)]}}}", "{bucket}"),
        (unique, "<unique>"),
        (user, "<user>"),
        ("owner", "<owner>"),
        ("{a:queue}", "{a:<queue>}"),
        ("tailer", "<tailer>"),
        (keys.pace("openai").split("l:")[1].split("}")[0], "<limit>"),
    )
    for key in spelled:
        pattern = key.replace("x" * 32, "<digest>")
        for value, name in names:
            pattern = pattern.replace(value, name)
        assert pattern in table, pattern


MADE = ("reference/", "decisions/index.md", "project/")
"""What `.ci/site.py` makes; `make docs` finds links to pages that it does not make."""


def test_links_lead_somewhere():
    """Relative links in the README and the documentation lead to files, or to pages of the site."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith(MADE) or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_says_whom_it_is_for(page: Path):
    """Under its title: the reader, then the purpose. The index is a table of purposes instead."""
    title, empty, purpose, *_ = page.read_text("utf-8").splitlines()
    assert title.startswith("# ")
    assert not empty
    assert purpose.startswith("For ") or page.stem == "index"
