"""Formats Mainstem's log lines: a fixed message, then the fields that were given with it.

A line's `action` names what happened, for grep and for log pipelines; messages may be reworded, actions not.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}


class FieldFormatter(logging.Formatter):
    """Appends a record's extra fields to its first line, as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the formatted message with its fields."""
        line = super().formatMessage(record)
        if not record.name.startswith("mainstem"):
            return line  # other libraries' extras are for their own handlers
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        return f"{line}  {shown}" if shown else line


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c == '"' for c in text) else text


def set_up(level: int | str = logging.INFO) -> None:
    """Log Mainstem's own lines to standard error, unless the process has set up logging already."""
    logger = logging.getLogger()
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
    for noisy in ("httpx", "httpcore", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
