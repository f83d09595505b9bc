"""Replaces the parts of a content that cannot be encoded or decoded by placeholders, and keeps the rest.

Engines' events are checked when they are emitted, so that this never happens to a run of today. It is the
last resort of whoever ends a run or shows one: a log of an older version, a damaged store. A part that would
make the whole unreadable is replaced by a placeholder; everything else is kept.
"""

from __future__ import annotations

from typing import Any, Final

from mainstem_shared.model import jsontext
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.runs import ErrorInfo

CONTENT_DAMAGED: Final = ErrorInfo(
    code="content_damaged",
    message="Some of this run's content could not be read or stored: what is missing is not shown.",
)
"""Why a run's content has gaps; its outcome is known all the same."""
UNREADABLE: Final = {"error": {"code": "unreadable", "message": "This value could not be read or stored."}}
"""Stands for what had to be left out."""


def readable(content: Content) -> Content:
    """Return a copy whose state can be encoded, and decoded again by whoever reads it."""
    state = {name: _readable(value) for name, value in content.dump().items()}
    state["content"] = [_readable_part(part) for part in content.parts]
    result = Content()
    result.restore(state)
    result.unread = [said for said in content.unread if _is_readable(said)]
    result.damaged = True
    return result


def _readable_part(part: TextPart | dict[str, Any]) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return part.dump()
    if part.get("type") != "tool_call":
        return part if _is_readable(part) else {"type": "unreadable", **UNREADABLE}
    return {name: value if _is_readable(value) else UNREADABLE for name, value in part.items()}


def _readable(value: Any) -> Any:
    if isinstance(value, list):
        return [item for item in value if _is_readable(item)]  # pyright: ignore[reportUnknownVariableType]
    return value if _is_readable(value) else None


def _is_readable(value: Any) -> bool:
    try:
        jsontext.checked(jsontext.dumps(value))
    except ValueError:
        return False
    return True


def is_nested(content: Content) -> bool:
    """Tell whether a content's state nests deeper than what engines may emit, as old logs may."""
    state = content.dump()
    try:
        return jsontext.nests_deeper(jsontext.dumps(state), state, than=jsontext.DEPTH + _AROUND)
    except ValueError:
        return True


_AROUND: Final = 10
"""Levels that a state puts around the values in it."""
