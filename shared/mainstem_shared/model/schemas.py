"""JSON Schemas of content parts, steps, inputs and messages.

Content is built of plain dicts on the hot path, so these are no models; `runs` lends the schemas to the
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
    "properties": {
        "type": {"enum": ["text", "reasoning", "refusal"]},
        "text": _STRING,
        "annotations": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["type", "text"],
}
_AGENT: Final = {
    "agent": {"type": "string", "description": "The sub-agent that made it: the id of its data part."},
    "parent": {"type": "string", "description": "The tool call that this agent works for."},
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
        **_AGENT,
    },
    "required": ["type", "call_id", "name", "arguments", "result", "state"],
}
_DATA: Final = {
    "title": "DataPart",
    "type": "object",
    "properties": {"type": {"const": "data"}, "id": _STRING, "name": _STRING, "value": {}},
    "required": ["type", "id", "name", "value"],
}
_SOURCE: Final = {
    "title": "SourcePart",
    "type": "object",
    "properties": {
        "type": {"const": "source"},
        "id": _STRING,
        "url": _STRING,
        "title": _STRING,
        "media_type": _STRING,
    },
    "required": ["type", "id"],
}
_FILE: Final = {
    "title": "FilePart",
    "type": "object",
    "properties": {
        "type": {"const": "file"},
        "id": _STRING,
        "media_type": _STRING,
        "url": _STRING,
        "digest": _STRING,
        "size": {"type": "integer"},
        "name": _STRING,
    },
    "required": ["type", "id", "media_type"],
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
        **_AGENT,
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

CONTENT: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"oneOf": [_TEXT, _TOOL_CALL, _DATA, _SOURCE, _FILE]},
}
MESSAGE_PARTS: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "title": "MessagePart",
        "type": "object",
        "properties": {"type": _STRING},
        "required": ["type"],
        "description": "A part of the content, what a user said meanwhile (`input`), or decided "
        "(`decision`); see docs/messages.md.",
    },
}
STEPS: Final[dict[str, Any]] = {"type": "array", "items": _STEP}
INPUTS: Final[dict[str, Any]] = {"type": "array", "items": _INPUT}
