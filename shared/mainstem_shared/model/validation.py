"""Converts pydantic's errors into one sentence for whoever sent the value: the place, then the problem.

Every boundary says it in the same form: requests of callers, inputs of engines, arguments of tools. What was
sent is never quoted: it may be secret, or large.
"""

from __future__ import annotations

from pydantic import ValidationError

from mainstem_shared import errors


def first_problem(error: ValidationError, *, whole: str = "") -> str:
    """Return the first problem as `place: problem`; `whole` names the place of the value itself."""
    return _sentences(error, whole)[0]


def problems(error: ValidationError, *, shown: int, whole: str = "") -> str:
    """Return the first `shown` problems in one line, and how many more there are."""
    sentences = _sentences(error, whole)
    more = len(sentences) - shown
    return "; ".join(sentences[:shown]) + (f"; and {more} more" if more > 0 else "")


def first_place(error: ValidationError, *, whole: str = "") -> str:
    """Return where the first problem is: names and positions, joined by dots."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return _place(found[0]["loc"], whole)


def invalid_request(error: ValidationError) -> errors.InvalidRequest:
    """Return the refusal of a request that does not fit; raise it `from` the error."""
    return errors.InvalidRequest(first_problem(error))


def _sentences(error: ValidationError, whole: str) -> list[str]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    placed = [(_place(problem["loc"], whole), problem["msg"]) for problem in found]
    return [f"{place}: {message}" if place else message for place, message in placed]


def _place(location: tuple[int | str, ...], whole: str) -> str:
    return ".".join(map(str, location)) or whole
