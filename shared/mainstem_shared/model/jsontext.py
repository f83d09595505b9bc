"""Encodes and decodes JSON as log entries, records and HTTP have it: compact, UTF-8, one line.

pydantic-core's encoder and decoder do the work (fast, and already a dependency).
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json, to_jsonable_python


def dumps(value: Any) -> bytes:
    """Encode `value`.

    Lone surrogates, which a provider's split escapes leave behind, cannot be UTF-8: such values
    are written with escapes, so that the halves join again at the reader. NaN and infinities, which JSON does
    not have and no browser reads, become null.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeEncodeError):
        plain = to_jsonable_python(value, inf_nan_mode="null")
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def loads(data: bytes | str) -> Any:
    """Decode one JSON text; escapes of lone surrogates are kept as such.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return from_json(data)
    except ValueError:
        # The strict decoder refuses lone surrogates; the lenient one accepts them and nothing else.
        return json.loads(data)
