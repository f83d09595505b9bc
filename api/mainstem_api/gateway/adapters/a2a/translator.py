"""Translates a run into an A2A task and its updates. A task is a run, a context is a thread. Pure.

A client that attaches gets the task with all there is, and from then on what is appended. Content that is
replaced is sent again as a whole: artifacts can be, so nothing is there twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.translator import Translator, agent_of
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Status

STATES: Final[Mapping[str, str]] = {
    Status.QUEUED: "TASK_STATE_SUBMITTED",
    Status.RUNNING: "TASK_STATE_WORKING",
    Status.REQUIRES_ACTION: "TASK_STATE_INPUT_REQUIRED",
    Status.SUCCEEDED: "TASK_STATE_COMPLETED",
    Status.FAILED: "TASK_STATE_FAILED",
    Status.ABORTED: "TASK_STATE_CANCELED",
}
_NAMES: Final[Mapping[str, str]] = {"text": "answer", "refusal": "answer", "reasoning": "reasoning"}
"""The artifacts that texts are appended to."""


class TaskUpdates(Translator):
    """One task, as a stream of JSON-RPC responses to the request `request_id`."""

    def __init__(self, attach_point: AttachPoint, request_id: Any) -> None:
        super().__init__()
        self._attach_point = attach_point
        self._request_id = request_id
        self._about = {"taskId": attach_point.spec.run_id, "contextId": attach_point.spec.thread_id}
        self._begun: set[str] = set()

    def opened(self) -> None:
        self._say("task", task(self._attach_point))
        self.begin_with(self._attach_point.fold.dump())
        self._begun = {artifact["artifactId"] for artifact in artifacts(self.fold)}
        if self._attach_point.outcome is not None:
            self.over = True  # the task says it all

    def began(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind in (Type.STARTED, Type.RESUMED, Type.RESTARTED):
            self._say_status(Status.RUNNING)

    def text_grew(self, part: int, kind: str, text: str) -> None:
        self._say_artifact(_NAMES[kind], {"text": text}, append=_NAMES[kind] in self._begun)

    def call_ready(self, call: Mapping[str, Any]) -> None:
        self._say_artifact(f"call-{call['call_id']}", {"data": _call(call)}, append=False)

    def call_ended(self, call: Mapping[str, Any]) -> None:
        self.call_ready(call)

    def part_set(self, part: Mapping[str, Any], *, again: bool) -> None:
        del again
        self._say_artifact(*_whole(part), append=False)

    def output_changed(self, value: Any) -> None:
        self._say_artifact("output", {"data": value}, append=False)

    def rewound(self) -> None:
        for name in self._begun:
            self._say_artifact(name, {"text": ""}, append=False)
        self._begun.clear()

    def rested(self, action: Mapping[str, Any]) -> None:
        self._say_status(Status.REQUIRES_ACTION, action=action)

    def finished(self, outcome: Mapping[str, Any]) -> None:
        self._say_status(Status(outcome["status"]), outcome=outcome)

    def _say_status(self, status: Status, **why: Mapping[str, Any]) -> None:
        told = {**self._about, "status": status_of(self._about, status, **why)}
        self._say("statusUpdate", {**told, **(_metadata(self.fold) if status.is_terminal else {})})

    def _say_artifact(self, name: str, part: Mapping[str, Any], *, append: bool) -> None:
        self._begun.add(name)
        artifact = {"artifactId": name, "parts": [part]}
        self._say("artifactUpdate", {**self._about, "artifact": artifact, "append": append})

    def _say(self, kind: str, payload: Mapping[str, Any]) -> None:
        self.say({"jsonrpc": "2.0", "id": self._request_id, "result": {kind: payload}})


def task(attach_point: AttachPoint) -> dict[str, Any]:
    """Return a run as a task, as of now."""
    spec, outcome, action = attach_point.spec, attach_point.outcome, attach_point.fold.action
    about = {"taskId": spec.run_id, "contextId": spec.thread_id}
    why = {
        **({} if outcome is None else {"outcome": outcome}),
        **({} if action is None or outcome is not None else {"action": action}),
    }
    return {
        "id": spec.run_id,
        "contextId": spec.thread_id,
        "status": status_of(about, attach_point.status, **why),
        "artifacts": artifacts(attach_point.fold),
        **_metadata(attach_point.fold),
    }


def _metadata(fold: Content) -> dict[str, Any]:
    reason = fold.extra.get("finish_reason")
    return {"metadata": {"finish_reason": reason}} if reason else {}


def artifacts(fold: Content) -> list[dict[str, Any]]:
    """Return a run's content as artifacts: its texts together, one for each call and each other part."""
    texts: dict[str, str] = {}
    calls: list[dict[str, Any]] = []
    for part in fold.parts:
        if isinstance(part, TextPart):
            texts[_NAMES[part.kind]] = texts.get(_NAMES[part.kind], "") + part.text
        elif part["type"] == "tool_call":
            calls.append({"artifactId": f"call-{part['call_id']}", "parts": [{"data": _call(part)}]})
        else:
            name, whole = _whole(part)
            calls.append({"artifactId": name, "parts": [whole]})
    if (output := fold.extra.get("output")) is not None:
        calls.append({"artifactId": "output", "parts": [{"data": output}]})
    return [*({"artifactId": name, "parts": [{"text": text}]} for name, text in texts.items()), *calls]


def _whole(part: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the artifact of a part that came whole (`data`, `source`, `file`): its name, what it holds."""
    name = f"{part['type']}-{part['id']}"
    if part["type"] == "file":
        named = {"filename": part["name"]} if "name" in part else {}
        return name, {"url": part.get("url", ""), "mediaType": part["media_type"], **named}
    if part["type"] == "data":
        return name, {"data": part["value"], "metadata": {"name": part["name"]}}
    return name, {"data": {member: part[member] for member in part if member not in ("type", "id")}}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: call[name] for name in ("call_id", "name", "arguments", "result", "state")}
    return {**known, **agent_of(call)}


def status_of(
    about: Mapping[str, str],
    status: Status,
    *,
    action: Mapping[str, Any] | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a task's status: with what it waits for, or why it failed, as a message of the agent."""
    parts: list[dict[str, Any]] = []
    if action is not None:
        parts = [*({"text": text} for text in _asked(action)), {"data": dict(action)}]
    elif outcome is not None and outcome["error"]:
        parts = [{"text": outcome["error"]["message"]}]
    told: dict[str, Any] = {"state": STATES[status]}
    if parts:
        message_id = f"{about['taskId']}.{action['action_id'] if action else 'end'}"
        told["message"] = {"messageId": message_id, "role": "ROLE_AGENT", "parts": parts, **about}
    return told


def _asked(action: Mapping[str, Any]) -> list[str]:
    questions = [str(question["text"]) for question in action.get("questions", ())]
    calls = action.get("calls", ())
    return [*questions, *(str(c.get("reason") or f"Approve the call of {c['name']}?") for c in calls)]
