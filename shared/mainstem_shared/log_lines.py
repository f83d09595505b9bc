"""Formats Mainstem's log lines: a fixed message, then fields; lines within a run name the run.

A line's `action` names what happened, for grep and for log pipelines; messages may be reworded, actions not.
`bound` names the run that a task works for, in a context variable; `RunFilter` puts that into each record of
any library, where handlers find it as they find `extra`. Workers install it on all handlers there are, an
application's own too (`reach_handlers`).
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
RUN_FIELDS: Final = ("run_id", "thread_id", "user_id", "engine", "segment")
"""What every line within a run says."""
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "data"}
_bound: Final[ContextVar[Mapping[str, object] | None]] = ContextVar("mainstem_log_fields", default=None)


@contextlib.contextmanager
def bound(**fields: object) -> Generator[None]:
    """Add fields to all lines that are logged in this context, and in tasks and threads started from it."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class RunFilter(logging.Filter):
    """Adds the fields of the current run to records; what a line says by itself stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        for name, value in (_bound.get() or {}).items():
            vars(record).setdefault(name, value)
        return True


class FieldFormatter(logging.Formatter):
    """Appends a record's fields to its first line, as `name=value`: all of ours, the run's of others."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the formatted message with its fields."""
        return _with_fields(super().formatMessage(record), record)


def _with_fields(line: str, record: logging.LogRecord) -> str:
    if record.name.startswith("mainstem"):
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    else:  # other libraries' extras are for their own handlers
        fields = dict(_bound.get() or {})
    shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
    return f"{line}  {shown}" if shown else line


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c == '"' for c in text) else text


def json_formatter() -> logging.Formatter:
    """Return a formatter of one JSON object a line, with all fields.

    Raises:
        RuntimeError: its library is not installed.
    """
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ImportError as error:
        raise RuntimeError("MAINSTEM_LOG_FORMAT=json needs: pip install python-json-logger") from error
    return JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
    )


def formatter(kind: str) -> logging.Formatter:
    """Return the formatter of a MAINSTEM_LOG_FORMAT."""
    return json_formatter() if kind == "json" else FieldFormatter(FORMAT)


def set_up(level: int | str = logging.INFO, *, kind: str = "text") -> None:
    """Log Mainstem's own lines to standard error, unless the process has set up logging already."""
    logger = logging.getLogger()
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(kind))
    handler.addFilter(RunFilter())
    logger.addHandler(handler)
    logger.setLevel(level)
    quieten()


def quieten() -> None:
    """Keep libraries from logging at INFO what tells an operator nothing."""
    for noisy in ("httpx", "httpcore", "openai", "anthropic", "alembic.runtime.plugins"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def reach_handlers(is_plain: Callable[[logging.Formatter], bool]) -> None:
    """Have all handlers of this process know the run; those with a plain format show it, too.

    A formatter that is not plain (JSON, an application's own) finds the fields in the record. Repeatable.
    """
    for handler in _handlers():
        if not any(isinstance(one, RunFilter) for one in handler.filters):
            handler.addFilter(RunFilter())
        plain = handler.formatter
        if plain is not None and is_plain(plain) and "run_id" not in (getattr(plain, "_fmt", None) or ""):
            handler.setFormatter(_Showing(plain))


def _handlers() -> Iterator[logging.Handler]:
    loggers: list[Any] = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    found = {id(handler): handler for one in loggers for handler in getattr(one, "handlers", ())}
    yield from found.values()


class _Showing(logging.Formatter):
    """Shows the run's fields at the end of the first line that another formatter makes."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the other formatter's text, with the fields."""
        text = self._inner.format(record)
        fields = _bound.get()
        if not fields:
            return text
        first, newline, rest = text.partition("\n")
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        return f"{first}  {shown}{newline}{rest}"
