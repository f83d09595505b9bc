"""A verdict is the status, reason and error that a run ends with, judged by how its engine ended.

An engine's exception is an object of foreign code: its text may raise, recurse, be no text, be huge, or hold
a secret. Nothing here trusts it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import SecretStr

from mainstem_shared import errors
from mainstem_shared.model.runs import ErrorInfo, Reason
from mainstem_shared.settings import Settings

MESSAGE_LIMIT: Final = 2000
"""Characters of an engine's own words that readers see."""
_READ_LIMIT: Final = 64 * 1024
"""Characters in which secrets are looked for: cut before, a half of one could stay in sight."""
_SHORTEST_SECRET: Final = 6
_UNREADABLE: Final = "(its text cannot be read)"
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SECRETS: Final = (
    (re.compile(r"(://)[^\s/@]*:[^\s/@]+@"), r"\1***@"),
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[\w.~+/=-]{8,}"), r"\1\2***"),
    (re.compile(r"(?i)\b(api[_-]?key|token|secret|passw(?:or)?d)(\W{1,4})[\w.~+/=-]{6,}"), r"\1\2***"),
    (re.compile(r"\b(?:sk|pk|ghp|xox[a-z])[-_][\w-]{8,}"), "***"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), "***"),
)
"""What looks like a credential wherever it stands: in addresses, headers, assignments, and by its prefix."""


class Exited(Exception):
    """Stands for a SystemExit or KeyboardInterrupt of an engine, which would end all runs of its loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run ends as."""

    reason: Reason
    error: ErrorInfo | None = None


def failed(reason: Reason, message: str) -> Verdict:
    """Return the verdict of a failure, in our own words."""
    return Verdict(reason=reason, error=ErrorInfo(code=reason.value, message=message))


_REASONS: Final[dict[type[Exception], Reason]] = {
    errors.BudgetReached: Reason.BUDGET_REACHED,
    errors.ContentTooLarge: Reason.CONTENT_TOO_LARGE,
    errors.ProviderError: Reason.PROVIDER_ERROR,
    errors.UnknownEngine: Reason.UNKNOWN_ENGINE,
}
"""What an engine's exception means for the run; anything else is the engine's own error."""


def of_engine(engine: asyncio.Task[None], settings: Settings, *, log: logging.Logger) -> Verdict:
    """Return what an engine's own end means; failures of its own are logged."""
    if engine.cancelled():
        return failed(Reason.ENGINE_ERROR, "The engine cancelled itself.")
    failure = engine.exception()
    if failure is None:
        return Verdict(reason=Reason.COMPLETED)
    if issubclass(type(failure), Exited) and failure.__cause__ is not None:
        failure = failure.__cause__
    message = _words_of(failure)
    for kind, reason in _REASONS.items():
        if issubclass(type(failure), kind):  # `isinstance` asks the object's own `__class__`
            shown = _shown(message, settings)
            if reason is Reason.PROVIDER_ERROR:
                log.error("the provider failed", extra={"action": "provider_failed", "cause": shown})
            verdict = failed(reason, shown)
            return dataclasses.replace(verdict, error=_with_status(verdict.error, failure))
    _note(log, failure)
    if issubclass(type(failure), errors.MainstemError):
        return Verdict(
            reason=Reason.ENGINE_ERROR,
            error=ErrorInfo(code=_code_of(failure), message=_shown(message, settings)),
        )
    return failed(Reason.ENGINE_ERROR, _shown(f"{_name_of(failure)}: {message}", settings))


def _with_status(error: ErrorInfo | None, failure: BaseException) -> ErrorInfo | None:
    """Return an error with the status of the provider that refused; a failed connection has none."""
    status: Any = failure.fields.get("status") if isinstance(failure, errors.ProviderError) else None
    is_http = type(status) is int and 400 <= status <= 599
    return error.model_copy(update={"status": status}) if error is not None and is_http else error


def _words_of(failure: BaseException) -> str:
    """Return an exception's text as a plain string of bounded length, whatever its `__str__` does."""
    try:
        return str.__getitem__(str(failure), slice(0, _READ_LIMIT))
    except BaseException:  # noqa: BLE001 - also what is no Exception: nothing may come out of a foreign __str__
        return _UNREADABLE


def _name_of(failure: BaseException) -> str:
    try:
        return str.__getitem__(type(failure).__name__, slice(0, 200))
    except BaseException:  # noqa: BLE001 - a metaclass may do anything, too
        return "an exception"


def _code_of(failure: BaseException) -> str:
    code: Any = getattr(failure, "code", None)
    return code if type(code) is str and _CODE.fullmatch(code) else Reason.ENGINE_ERROR.value


def _shown(text: str, settings: Settings) -> str:
    """Return a text without secrets, of bounded length, that every encoder takes."""
    text = text.encode("utf-8", "replace").decode()
    for secret in _configured_secrets(settings):
        text = text.replace(secret, "***")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text[:MESSAGE_LIMIT]


def _configured_secrets(settings: Settings) -> list[str]:
    values = [getattr(settings, name) for name in type(settings).model_fields]
    secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    return sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)


def _note(log: logging.Logger, failure: BaseException) -> None:
    """Log a failure with its traceback, or at least that there was one."""
    noted = {"action": "engine_failed"}
    try:
        log.error("the engine failed", extra=noted, exc_info=failure)
    except BaseException:  # noqa: BLE001 - formatting calls what the exception brings along
        log.error("the engine failed; its traceback cannot be shown", extra=noted)  # noqa: TRY400
