"""The pages that follow from the scripts are those of the scripts as they are."""

from __future__ import annotations

import os
import re

from model import pages
from model.scripts import SHIPPED


def test_the_page_of_verbs_is_that_of_the_scripts():
    """Every header as it is. MAINSTEM_GOLDEN=write writes the page anew."""
    if os.environ.get("MAINSTEM_GOLDEN") == "write":
        pages.VERBS.write_text(pages.verbs_page(), "utf-8")
    assert sorted(script for group in pages.GROUPS.values() for script in group) == sorted(SHIPPED)
    assert pages.VERBS.read_text("utf-8") == pages.verbs_page()


def test_the_specification_names_only_verbs_that_there_are():
    """Whatever docs/protocol.md calls a verb is one, and it leaves out none of those that change a run."""
    page = (pages.DOCS / "protocol.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+)`", page))
    assert set(SHIPPED) <= named
