"""JSON Schemas of what is a plain dict inside and a documented shape outside: content parts, steps, inputs.

Folding builds these dicts on the hot path, so they are no models; `models` lends these schemas to the
OpenAPI document. What each member means stands in docs/events.md.
"""

from __future__ import annotations

from typing import Any, Final

_STRING: Final = {"type": "string"}

TIMESTAMP: Final[dict[str, Any]] = {"type": "string", "format": "date-time"}
_TIMESTAMP_OR_NULL: Final = {"anyOf": [TIMESTAMP, {"type": "null"}]}

_TEXT: Final = {
    "title": "TextPart",
    "type": "object",
    "properties": {"type": {"enum": ["text", "reasoning"]}, "text": _STRING},
    "required": ["type", "text"],
}
_TOOL_CALL: Final = {
    "title": "ToolCallPart",
    "type": "object",
    "properties": {
        "type": {"const": "tool_call"},
        "call_id": _STRING,
        "name": _STRING,
        "arguments": {"description": "Text while `state` is `streaming`, an object afterwards."},
        "result": {"description": "What the tool returned, or null."},
        "state": {"enum": ["streaming", "called", "completed", "failed", "aborted"]},
    },
    "required": ["type", "call_id", "name", "arguments", "result", "state"],
}
_STEP: Final = {
    "title": "Step",
    "type": "object",
    "properties": {
        "step_id": _STRING,
        "kind": {"enum": ["tool_call", "step"]},
        "name": _STRING,
        "state": {"enum": ["running", "completed", "failed", "aborted"]},
        "started_at": _TIMESTAMP_OR_NULL,
        "completed_at": _TIMESTAMP_OR_NULL,
    },
    "required": ["step_id", "kind", "name", "state", "started_at", "completed_at"],
}

_INPUT: Final = {
    "title": "Input",
    "type": "object",
    "properties": {
        "input_id": _STRING,
        "text": _STRING,
        "by": {"type": ["string", "null"]},
        "sent_at": TIMESTAMP,
        "state": {"enum": ["queued", "read", "unread"]},
        "part": {
            "type": ["integer", "null"],
            "description": "The number of the part before which the engine read it; null if it has not.",
        },
    },
    "required": ["input_id", "text", "by", "sent_at", "state", "part"],
}

CONTENT: Final[dict[str, Any]] = {"type": "array", "items": {"oneOf": [_TEXT, _TOOL_CALL]}}
STEPS: Final[dict[str, Any]] = {"type": "array", "items": _STEP}
INPUTS: Final[dict[str, Any]] = {"type": "array", "items": _INPUT}
