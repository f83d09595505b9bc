"""Reads a provider's failure from the body of an error answer, or from the middle of a stream.

The words, the code, and whether the same request may succeed later. A code that is known to stay (a wrong
key, a quota, a context that is too long) is never asked again; one that nobody knows is.
"""

# What providers send is checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mainstem_tasks.engines.assembly.pieces import Failure

TRANSIENT: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 that pass; 425 only within a stream."""
_LASTING: Final = (
    "insufficientquota", "quotaexceeded", "billing", "balance", "arrear", "invalidrequest",
    "invalidargument", "invalidparameter", "invalidapikey", "invalidprompt", "invalidtype", "invalidvalue",
    "authentication", "unauthorized", "unauthenticated", "permission", "forbidden", "notfound",
    "badrequest", "unsupported", "contextlength", "contextwindow", "stringabovemaxlength", "toolarge",
    "toolong", "contentfilter", "contentpolicy", "safety", "datainspection", "accountdeactivated",
    "unknownmodel", "unprocessable", "validation", "expiredkey",
)  # fmt: skip
"""Parts of codes, without case and signs, that say: not later either."""
_CODES: Final = ("code", "type", "status", "error_code", "err_code", "name")
_WORDS: Final = (
    "message",
    "msg",
    "detail",
    "error_message",
    "status_msg",
    "error_msg",
    "errmsg",
    "description",
    "metadata",
)


def lasts(code: str) -> bool:
    """Tell whether a code says that asking again cannot help."""
    plain = "".join(filter(str.isalnum, code.casefold()))
    return any(part in plain for part in _LASTING)


def words_of(body: object) -> str:
    """Return the message in an error body: OpenAI's, or one of the shapes that compatible servers use."""
    match body:
        case str():
            return body.strip()
        case Mapping():
            for name in ("message", "error", *_WORDS):
                if value := body.get(name):
                    return value if isinstance(value, str) else words_of(value) or _json(value)
            return ""
        case list() if body:
            return words_of(body[0]) or _json(body)
        case _:
            return ""


def failure_in(chunk: Mapping[str, Any], event: str = "") -> Failure | None:
    """Return the failure that a value of a stream says, if it does."""
    for name in ("error", "errors"):
        if error := chunk.get(name):
            return _failure(error, chunk)
    base = chunk.get("base_resp")
    if isinstance(base, Mapping) and base.get("status_code") not in (None, 0):
        return _failure({"message": base.get("status_msg"), "code": base["status_code"]}, chunk)
    if "choices" in chunk:
        return None
    if event == "error" or chunk.get("object") == "error" or chunk.get("type") == "error":
        return _failure(chunk, chunk)
    said = any(isinstance(chunk.get(name), str) and chunk[name] for name in ("message", "msg", "detail"))
    return _failure(chunk, chunk) if said or isinstance(chunk.get("detail"), list) else None


def codes_of(body: object) -> list[str]:
    """Return the codes of an error body, the error's own first."""
    around: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    error = around.get("error")
    return _codes(error if isinstance(error, Mapping) else {}, around)


def _codes(*holders: Mapping[str, Any]) -> list[str]:
    codes = [
        str(where[name]) for where in holders for name in _CODES if isinstance(where.get(name), str | int)
    ]
    return [code for code in codes if code not in ("error", "True", "False")]


def _failure(error: Any, around: Mapping[str, Any]) -> Failure:
    found: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    codes = _codes(found, around)
    status = next((int(code) for code in codes if code.isdecimal() and 400 <= int(code) < 600), None)
    named = next((code for code in codes if not code.isdecimal()), codes[0] if codes else "")
    refused = status is not None and status < 500 and status not in TRANSIENT
    words = words_of(error) or words_of(around) or _json(error)
    if isinstance(raw := (found.get("metadata") or {}), Mapping) and isinstance(raw.get("raw"), str):
        words = f"{words}: {raw['raw']}"
    return Failure(
        words=words, code=named, status=status, retryable=not refused and not any(map(lasts, codes))
    )


def _json(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
