"""Bounds what a request may send: headers, body, and JSON that means one thing.

A body is read whole, within a time, before the app sees any of it. What JSON's own specification leaves to
taste (NaN, the same name twice, numbers beyond all bounds) is refused: two readers could read two things.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_shared.model import jsontext

BODY_LIMIT: Final = 32 * 1024 * 1024
"""A run's input with its files, which do not stay in it; a deployment's is MAINSTEM_MAX_BODY_MB."""
_ON_LOOP: Final = 256 * 1024  # bytes of JSON that are parsed at once; more are, in a thread
HEADER_LIMIT: Final = 32 * 1024
"""Bytes of address and headers: cookies and tokens fit, and nothing larger is parsed."""
BODY_S: Final = 60.0
"""Time for a whole body."""
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
"""The escape of one: UTF-8 itself has none."""


class RequestLimits:
    """Refuses what is too large, too slow, or not plain JSON; hands on whole bodies."""

    def __init__(self, app: ASGIApp, *, body_limit: int = BODY_LIMIT) -> None:
        self._app = app
        self._body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_headers(scope)
            body = await _body(scope, receive, limit=self._body_limit)
        except _RefusedError as refusal:
            # The server drops the rest of the body; closing could reset the client before it reads this.
            await problems.problem(refusal.status, refusal.code, refusal.words)(scope, receive, send)
        except asyncio.IncompleteReadError:
            return  # the client is gone
        else:
            await self._app(scope, receive if body is None else _replay(body, receive), send)


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.code = code
        self.words = words


def _check_headers(scope: Scope) -> None:
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if size + sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_LIMIT:
        raise _RefusedError(431, "headers_too_large", f"Address and headers are over {HEADER_LIMIT} bytes.")


async def _body(scope: Scope, receive: Receive, *, limit: int) -> bytes | None:
    """Return a request's body; None if it announces none."""
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "0")
    if announced.strip("0") == "" and "transfer-encoding" not in headers:
        return None
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_S):
            body = await _read(receive, limit=limit)
    except TimeoutError:
        raise _RefusedError(408, "body_too_slow", f"The body took more than {BODY_S:.0f} seconds.") from None
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and (kind == "application/json" or kind.endswith("+json")):
        return await asyncio.to_thread(checked, body) if len(body) > _ON_LOOP else checked(body)
    return body


def _too_large(limit: int) -> _RefusedError:
    words = f"The request's body is over {limit} bytes (MAINSTEM_MAX_BODY_MB)."
    return _RefusedError(413, "body_too_large", words)


async def _read(receive: Receive, *, limit: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.IncompleteReadError(b"", None)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise _too_large(limit)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


# -- JSON


def checked(body: bytes) -> bytes:
    """Return a body, which is JSON that every reader reads alike; halves of surrogate pairs are replaced.

    Names can have them as well as values, and neither models nor encoders take them all.
    """
    if jsontext.has_more_values(body):
        raise _no_json(f"more than {jsontext.MOST_VALUES:,} values; a file or a text is one.")
    try:
        value = _DECODER.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise _no_json("it is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise _no_json(f"{error}.") from None
    except RecursionError:
        raise _no_json("nested too deeply.") from None
    except ValueError:  # an integer of more digits than Python reads in reasonable time
        raise _no_json("a number beyond all bounds.") from None
    if jsontext.nests_deeper(body, value, than=jsontext.DEPTH + 1):  # the request around its values
        raise _no_json("nested too deeply.")
    if _SURROGATE.search(body) is None:
        return body
    repaired = jsontext.well_formed(value)
    return body if repaired is value else jsontext.dumps(repaired)


def _no_json(words: str) -> _RefusedError:
    return _RefusedError(422, "invalid_request", f"body: {words}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _no_json("the same name twice in one object.")
    return found


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _no_json("a number beyond all bounds.")
    return value


def _constant(name: str) -> Any:
    raise _no_json(f"{name} is not JSON.")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant)
