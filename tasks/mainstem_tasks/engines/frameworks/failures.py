"""Tells the failures of model providers from those of agents, whichever client raised them.

Frameworks let their clients' exceptions through, or wrap them. A provider's failure ends a run as
`provider_error`, with the status and the provider's words; everything else is the engine's own.
"""

# exceptions of packages that may not be installed are read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator
from typing import Any, Final

from mainstem_shared import errors
from mainstem_tasks.engines.turns import failures

_CLIENTS: Final = (
    "openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2", "google.genai", "google.api_core",
    "mistralai", "groq", "cohere", "botocore", "boto3", "huggingface_hub", "xai_sdk",
)  # fmt: skip
"""Packages that speak to providers: what they raise is a provider's failure."""
_BASES: Final = frozenset({"ModelAPIError"})
"""Classes of frameworks that say the same."""
_LASTING: Final = range(400, 500)
_SHOWN_CHARACTERS: Final = 500
_KEY_LIKE: Final = re.compile(r"\b(sk|pk|key)-[\w*.-]{4,}")


@contextlib.contextmanager
def as_provider_errors() -> Generator[None]:
    """Let a provider's failure out of the block as `ProviderError`, and all others as they are."""
    try:
        yield
    except Exception as error:  # judged below; what is not the provider's goes on as it came
        found = provider_error(error)
        if found is None or found is error:
            raise
        raise found from None  # the original's text may quote the key


def provider_error(error: BaseException) -> errors.MainstemError | None:
    """Return what a failure means for the run if it is, or was caused by, a provider's or Mainstem's own."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, errors.MainstemError):
            return cause
        if isinstance(cause, ExceptionGroup):
            found = [provider_error(inner) for inner in cause.exceptions]
            return found[0] if found and all(found) else None
        if _is_of_a_client(cause):
            return _told(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def _is_of_a_client(error: BaseException) -> bool:
    """Tell whether a client of providers raised it; its local mistakes (a missing key) are none of theirs."""
    for kind in type(error).__mro__:
        package = kind.__module__
        if kind.__name__ in _BASES or any(
            package == name or package.startswith(f"{name}.") for name in _CLIENTS
        ):
            return isinstance(error, Exception)
    return False


def _told(error: BaseException) -> errors.ProviderError:
    status = _status_of(error)
    words = failures.words_of(getattr(error, "body", None)) or str(error) or type(error).__name__
    words = _KEY_LIKE.sub("[key]", " ".join(words.split()))[:_SHOWN_CHARACTERS]
    lasts = status in _LASTING and status not in failures.TRANSIENT if status is not None else False
    said = (
        f"The provider answered {status}: {words}" if status is not None else f"The provider failed: {words}"
    )
    return errors.ProviderError(said, status=status, retryable=not lasts)


def _status_of(error: BaseException) -> int | None:
    for name in ("status_code", "status", "code"):
        value: Any = getattr(error, name, None)
        if type(value) is int and 400 <= value <= 599:
            return value
    return None
