"""What clients of each protocol have of a run that they followed from its first event to its last."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mainstem_api.gateway.adapters.ag_ui.events import Events
from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream
from mainstem_api.gateway.adapters.openai_responses.translator import Responses
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.openai_responses import ResponseId
from mainstem_shared.operations import ending
from mainstem_tasks.testing import EngineRun
from support.models import goldens
from support.models.record_model import NEW, RUN, fresh

AT = 1_795_000_000_000


@dataclass
class View:
    """A run as a client has it. A call's arguments are None if it failed."""

    text: str = ""
    reasoning: str = ""
    calls: dict[str, list[Any]] = field(default_factory=dict)
    error: str = ""

    def call(self, call_id: str, name: str) -> None:
        self.calls.setdefault(call_id, [name, "", False])

    @property
    def made(self) -> list[list[Any]]:
        """The calls: their names, and their arguments unless they failed."""
        return [
            [name, None if failed else json.loads(text or "{}")] for name, text, failed in self.calls.values()
        ]


def log_of(run: EngineRun) -> list[Frame]:
    """The log of a run that an engine emitted, from its start to its end."""
    created = {"run_id": RUN, "thread_id": "thread", "engine": "openai", "trigger": "user", "at": AT, "v": 1}
    started = {"segment": 1, "worker": "w", "task_id": "t", "at": AT}
    if run.error is not None:
        ending.close_open_calls(run.fold)
    state = run.fold.dump()
    failure = None if run.error is None else {"code": "provider_error", "message": str(run.error)}
    reason = ("failed", "provider_error") if failure else ("succeeded", "completed")
    finished = {"status": reason[0], "reason": reason[1], "error": failure, "at": AT, **state}
    top = run.events[-1].cursor if run.events else Cursor(2, 0)
    entries = [
        _entry(Cursor(1, 0), Type.CREATED, {"prev": "0-0", **created}),
        _entry(Cursor(2, 0), Type.STARTED, {"prev": "1-0", **started}),
        *run.events,
        _entry(Cursor(3, 0), Type.FINISHED, {"prev": str(top), **finished}),
    ]
    return [Frame(entry) for entry in entries]


def _entry(cursor: Cursor, kind: str, payload: dict[str, Any]) -> Entry:
    return Entry(cursor, kind, jsontext.dumps(payload))


def ag_ui(frames: list[Frame]) -> View:
    view = View()
    translator = Events(thread_id="thread", name="r1", run_id=RUN, attach_point=None, history=())
    for event in _events(goldens.translate(translator, frames)):
        match event["type"]:
            case "TEXT_MESSAGE_CONTENT":
                view.text += event["delta"]
            case "REASONING_MESSAGE_CONTENT":
                view.reasoning += event["delta"]
            case "TOOL_CALL_START":
                view.call(event["toolCallId"], event["toolCallName"])
            case "TOOL_CALL_ARGS":
                view.calls[event["toolCallId"]][1] += event["delta"]
            case "TOOL_CALL_RESULT":
                view.calls[event["toolCallId"]][2] = event.get("metadata", {}).get("mainstem", {}).get(
                    "state"
                ) in ("failed", "aborted")
            case "RUN_ERROR":
                view.error = event["message"]
            case _:
                pass
    return view


def ai_sdk(frames: list[Frame]) -> View:
    view = View()
    for event in _events(goldens.translate(UIMessageStream(run_id="run", message_id="run"), frames)):
        if "toolCallId" in event and "toolName" in event:
            view.call(event["toolCallId"], event["toolName"])
        match event["type"]:
            case "text-delta":
                view.text += event["delta"]
            case "reasoning-delta":
                view.reasoning += event["delta"]
            case "tool-input-available":
                view.calls[event["toolCallId"]][1] = json.dumps(event["input"])
            case "tool-output-error" | "tool-input-error":
                view.calls[event["toolCallId"]][2] = True
            case "error":
                view.error = event["errorText"]
            case _:
                pass
    return view


def responses(frames: list[Frame]) -> View:
    view = View()
    translator = Responses(ResponseId(RUN, 0), fresh(dataclasses.replace(NEW)))
    said = [translator.opening(), *(translator.take([frame]) for frame in frames if not translator.over)]
    events = _events(b"".join(said))
    for item in events[-1]["response"]["output"]:
        match item["type"]:
            case "message":
                view.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                view.reasoning += "".join(part["text"] for part in item["content"])
            case _:
                view.call(item["id"], item["name"])
                view.calls[item["id"]][1:] = [item["arguments"], item["status"] in ("failed", "incomplete")]
    view.error = (events[-1]["response"]["error"] or {}).get("message", "")
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == view.text
    return view


def _events(said: bytes) -> Sequence[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in said.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


CLIENTS = {"AG-UI": ag_ui, "AI SDK": ai_sdk, "Responses": responses}
