"""JSON as it stands in log entries, records and on the wire: compact, UTF-8, one line.

pydantic-core's encoder and decoder do the work (fast, and already a dependency).
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json


def dumps(value: Any) -> bytes:
    """Encode `value`.

    Lone surrogates, which a provider's split `\\ud83d` escapes leave behind, cannot be UTF-8: such values
    are spelled with escapes, so that the halves join again at the reader.
    """
    try:
        return to_json(value)
    except (PydanticSerializationError, UnicodeEncodeError):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


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
