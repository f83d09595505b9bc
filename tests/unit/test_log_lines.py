"""What log lines look like."""

from __future__ import annotations

import logging

from mainstem_shared.log_lines import FieldFormatter


def line(name: str, **fields: object) -> str:
    record = logging.getLogger(name).makeRecord(
        name, logging.INFO, __file__, 1, "run ended", (), None, extra=fields
    )
    return FieldFormatter("%(levelname)s %(message)s").format(record)


def test_fields_follow_the_message():
    """A line of ours shows its action and fields; values with spaces are quoted."""
    got = line("mainstem_shared.x", action="run_finished", run_id="r1", why="no answer")
    assert got == "INFO run ended  action=run_finished run_id=r1 why='no answer'"


def test_other_libraries_lines_stay_as_they_are():
    """Extras of other libraries are not ours to show."""
    assert line("celery.worker", secret="x") == "INFO run ended"
