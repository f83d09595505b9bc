"""Encodes and decodes JSON as log entries, records and HTTP have it: compact, UTF-8, one line.

pydantic-core's encoder and decoder do the work (fast, and already a dependency). They take 254 and 200
levels. Values from outside may have DEPTH, so that whatever holds them can be encoded and decoded too.
"""

# Values of any shape are walked here.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any, Final

from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python

DEPTH: Final = 100
"""Levels of a value from outside: an event's payload, an input, metadata, an action, a decision."""
READABLE_DEPTH: Final = 200
"""Levels that `loads` takes: DEPTH, and whatever records, states and answers put around it."""
MOST_VALUES: Final = 250_000
"""Values in one text from outside. Each becomes an object, and nothing else of the process runs meanwhile:
32 MB of `[],` took it half a minute. Files and long texts are one value each."""
_PIECE: Final = 1024 * 1024
_WRITABLE_DEPTH: Final = 254
"""Levels that pydantic-core's encoder takes, and so whatever writes what it refuses."""


def dumps(value: Any) -> bytes:
    """Encode `value`.

    Lone surrogates, which a provider's split escapes leave behind, cannot be UTF-8: such values
    are written with escapes, so that the halves join again at the reader. NaN and infinities, which JSON does
    not have and no browser reads, become null.

    Raises:
        ValueError: JSON cannot hold it: a type of its own, a cycle, or too many levels.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError):
        try:
            plain = _plain(value)
            return json.dumps(plain, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        except RecursionError as error:
            raise ValueError("JSON text cannot be written: nested too deeply.") from error


def loads(data: bytes | str) -> Any:
    """Decode one JSON text; escapes of lone surrogates are kept as such.

    Raises:
        ValueError: it is not JSON, or nests deeper than READABLE_DEPTH.
    """
    try:
        return from_json(data)
    except (ValueError, TypeError):  # TypeError: a `str` that holds the surrogate itself, not its escape
        return _leniently(data)


def checked(data: bytes | str) -> Any:
    """Decode the JSON text of a value from outside, which others will hold, store and send on.

    Raises:
        ValueError: it nests deeper than DEPTH, has more than MOST_VALUES, or a number that no decoder reads.
    """
    if has_more_values(data):
        raise ValueError(f"more than {MOST_VALUES:,} values")
    value = loads(data)
    if nests_deeper(data, value, than=DEPTH):
        raise ValueError(f"nested deeper than {DEPTH} levels")
    return value


def has_more_values(data: bytes | str, *, than: int = MOST_VALUES) -> bool:
    """Tell whether a JSON text has more than so many values, names included, without making objects of them.

    A few scans of the text. Commas and brackets in its strings are looked at only if they might be too many.
    """
    if len(data) <= than:
        return False
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if not _has_more(text, b",[{:", than=than):
        return False
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _has_more(bare, b'"', than=2 * than):
        return True
    return _has_more(b"".join(bare.split(b'"')[::2]), b",[{:", than=than)


def _has_more(text: bytes, marks: bytes, *, than: int) -> bool:
    """Count bytes, a megabyte at a time: other threads have their turns in between."""
    count = 0
    for at in range(0, len(text), _PIECE):
        piece = text[at : at + _PIECE]
        count += len(piece) - len(piece.translate(None, marks))
        if count > than:
            return True
    return False


def nests_deeper(data: bytes | str, value: Any, *, than: int) -> bool:
    """Tell whether `value`, whose JSON text is `data`, has more than so many levels.

    Counting brackets settles most texts, for the price of two scans.
    """
    opening = ("[", "{") if isinstance(data, str) else (b"[", b"{")
    if sum(data.count(bracket) for bracket in opening) <= than:  # pyright: ignore[reportArgumentType]
        return False
    level = [value]
    for _ in range(than):  # level by level, not recursively: it must not fail on what it is asked about
        level = [child for one in level for child in _children(one)]
        if not level:
            return False
    return any(isinstance(one, dict | list | tuple) for one in level)


def well_formed(value: Any) -> Any:
    """Return a JSON value whose texts, names included, are valid Unicode; the value itself if it is already.

    Halves of a surrogate pair that stand side by side become the character, a half alone becomes U+FFFD. What
    comes from outside passes here once: requests, tools' results, what goes to a model provider.
    """
    try:
        to_json(value, inf_nan_mode="null")
    except (ValueError, TypeError):
        with contextlib.suppress(RecursionError):  # its encoder refuses it, with words
            return _repaired(value)
    return value


def _plain(value: Any, level: int = 1) -> Any:
    """Return a value of what JSON has; the encoder's own function refuses names with lone surrogates.

    Raises:
        RecursionError: it nests deeper than the encoder allows, or holds itself.
    """
    if level > _WRITABLE_DEPTH:
        raise RecursionError
    match value:
        case dict():
            return {
                name if isinstance(name, str) else _name(name): _plain(item, level + 1)
                for name, item in value.items()  # pyright: ignore[reportUnknownVariableType]
            }
        case list() | tuple():
            return [_plain(item, level + 1) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return to_jsonable_python(value, inf_nan_mode="null")


def _name(name: Any) -> str:
    return next(iter(to_jsonable_python({name: None})))


def _repaired(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case dict():
            return {_repaired(name): _repaired(item) for name, item in value.items()}
        case list() | tuple():
            return [_repaired(item) for item in value]
        case _:
            return value


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType] - JSON
    return value if isinstance(value, list | tuple) else ()  # pyright: ignore[reportUnknownVariableType]


def _leniently(data: bytes | str) -> Any:
    """Decode what the strict decoder refuses for a lone surrogate, and nothing else that it refuses."""
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON text cannot be read: nested too deeply.") from error
    if nests_deeper(data, value, than=READABLE_DEPTH):
        raise ValueError(f"JSON text cannot be read: nested deeper than {READABLE_DEPTH} levels.")
    return value
