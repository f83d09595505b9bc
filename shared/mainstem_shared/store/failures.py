"""Classifies the store's failures by exception type and error code; no other module reads either.

redis-py has classes for some codes and none for others, and its pipelines put the command in front of the
message; raw connections have the bare reply. Everybody who talks to the store asks here whether a failure may
pass. An error reply of an unknown code means that the server cannot serve now: its authors add codes, and
repeating is safe wherever this is asked. What says that the caller is wrong is listed.
"""

from __future__ import annotations

import re
from typing import Any, Final

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = [
    "ConnectionLost",
    "RedisError",
    "code_of",
    "has_moved",
    "is_elsewhere",
    "is_out_of_memory",
    "is_transient",
    "may_have_moved",
]

ConnectionLost = RedisConnectionError
"""redis-py's error for a connection that broke, for those who find out by other means."""

_LOST: Final = (RedisConnectionError, RedisTimeoutError, InvalidResponse, OSError)
"""The connection was lost, could not be made (for want of rights, too), or speaks no RESP any more."""
_WRONG: Final = frozenset(
    {"WRONGTYPE", "CROSSSLOT", "NOSCRIPT", "BUSYGROUP", "NOGROUP", "BUSYKEY", "NOPROTO"}
)
"""Codes by which the caller is wrong: the same call fails for ever, and its failure must show."""
_STATE: Final = re.compile(
    r"max number of clients|max(imum)? .*(requests?|connections?)\b.*(exceeded|reached)|upstream|"
    r"connection (refused|reset|timed out|closed)|server (closed|is (busy|shutting down|loading))|"
    r"shutting down|operation not permitted|max requests limit|try again|unavailable",
    re.IGNORECASE,
)
"""Texts under the code ERR that are about the server, or a proxy before it, and not about the call."""
_ELSEWHERE: Final = frozenset(
    {
        "READONLY",
        "MASTERDOWN",
        "LOADING",
        "NOREPLICAS",
        "CLUSTERDOWN",
        "UNBLOCKED",
        "REDIRECT",
        "NOMASTERLINK",
    }
)
"""Codes of a server that is no primary (any more): another connection may lead to the one that is."""
_OTHER_SLOT: Final = frozenset({"MOVED", "ASK", "TRYAGAIN"})
"""Codes by which a Cluster's node says that it has not the key's slot, or not for the moment."""
_IN_PIPELINE: Final = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
_CODES: Final[dict[Any, str]] = {
    kind: code for code, kind in BaseParser.EXCEPTION_CLASSES.items() if isinstance(kind, type)
}
"""What redis-py's own classes stand for, when they are raised without a reply's code."""
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]*\b")


def code_of(error: BaseException | str) -> str:
    """Return the code of an error reply (`READONLY`); "" for a failure that is no reply."""
    if isinstance(error, str):
        return _code_in(error)
    if code := getattr(error, "status_code", None) or _CODES.get(type(error)):
        return str(code)
    return _code_in(_text(error)) if isinstance(error, (ResponseError, hiredis.ReplyError)) else ""


def is_transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed later: nobody answered, or the server cannot serve now."""
    if isinstance(error, (ResponseError, hiredis.ReplyError)):
        code = code_of(error)
        return code not in _WRONG and (code not in ("ERR", "") or bool(_STATE.search(_text(error))))
    return isinstance(error, _LOST)


def is_elsewhere(error: BaseException | str) -> bool:
    """Tell whether the reply comes from a server that is no primary: connect anew before trying again."""
    return code_of(error) in _ELSEWHERE


def has_moved(error: BaseException | str) -> bool:
    """Tell whether the reply says that the key's slot is another server's, or is about to be."""
    return code_of(error) in _OTHER_SLOT


def may_have_moved(error: BaseException | str) -> bool:
    """Tell whether the key may be another server's by now: this one says so, or says nothing."""
    return has_moved(error) or is_elsewhere(error) or isinstance(error, _LOST)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the server refused a write because `maxmemory` is reached."""
    return (
        isinstance(error, OutOfMemoryError)
        or code_of(error) == "OOM"
        or "command not allowed when" in str(error)
    )


def _text(error: BaseException) -> str:
    """Return the reply itself, without what a pipeline puts around it."""
    text, in_pipeline = _IN_PIPELINE.subn("", str(error))
    return text.lstrip("('\"") if in_pipeline else text  # it has its exception's arguments as a tuple


def _code_in(text: str) -> str:
    match = _CODE.match(text)
    return match[0] if match else ""
