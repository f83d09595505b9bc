"""Orders and numbers the events of a response: a function of the run's content, and of nothing else.

A client continues with one number (`starting_after`), at any gateway, also when the log that its events
came from was trimmed to a snapshot or to the final event. So the numbers are not the log's:

* Events follow each other item by item, and text is cut at fixed offsets (`chunking`). From the content alone
  everybody counts the same events; who continues skips as many as it has.
* 0, 1 and 2 are `response.created`, `response.queued` and `response.in_progress`; a run that no worker ever
  had has no number 2.
* A tool call is told when its outcome is known; what follows it waits for that. (Until then nobody knows
  whether it is the server's, the caller's, or a human's to decide.)
* Content that is replaced (the run began anew elsewhere) starts another count, a STRIDE higher, with
  `response.created` again: everything told before is void.

Pure. `translator` pushes what becomes known, in the content's order; `pump` tells what can be told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.engine_input import json_text
from mainstem_api.gateway.adapters.openai_responses import ids
from mainstem_api.gateway.adapters.openai_responses.chunking import chunk_bounds
from mainstem_shared.model.openai_responses import ResponseId

STRIDE: Final = 2**32
"""Numbers of one count; no content has as many events, and a JavaScript number holds two million strides."""
SERVER: Final = "mainstem"
"""The `server_label` of tools that run in our workers: to the client they are a remote server's."""

_FIRST: Final = 3
"""The number of the first event that is not about the beginning, whether or not all of those came."""
Say = Callable[[str, Mapping[str, Any]], None]


class Text:
    """A text or reasoning part that is told as it grows."""

    def __init__(self, part: int, kind: str) -> None:
        self.part = part
        self.kind = kind
        self.closed = False
        self.begun = False
        self.told = 0
        self.annotations: Sequence[Mapping[str, Any]] = ()
        self._pieces: list[str] = []
        self._length = 0

    def append(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)

    @property
    def length(self) -> int:
        return self._length

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""


class Call:
    """A tool call. `part` is None until its outcome is known."""

    def __init__(self, call_id: str, *, approved_by: str | None = None) -> None:
        self.call_id = call_id
        self.approved_by = approved_by
        self.part: Mapping[str, Any] | None = None


class Sequencer:
    """What was and what can be told of one response.

    `after`: the number up to which the client has it. `summarised`: it asked for summaries of reasoning, and
    is told reasoning as such; else as reasoning text, which open models have.
    """

    def __init__(
        self, name: ResponseId, *, restarts: int, after: int, say: Say, summarised: bool = False
    ) -> None:
        self.items: list[dict[str, Any]] = []
        """Output items that are complete, as they were told."""
        self._name = name
        self._run_id = name.run_id
        self._restarts = restarts
        self._after = after
        self._say = say
        self._number = 0
        self._units: deque[Text | Call] = deque()
        self._names = {**_TEXTS, "reasoning": _SUMMARY} if summarised else _TEXTS

    # -- numbers

    def emit(self, kind: str, fields: Callable[[], Mapping[str, Any]]) -> None:
        """Tell the next event, unless the client has it."""
        self._number = max(self._number, _FIRST)
        self._emit(kind, fields)

    def _emit(self, kind: str, fields: Callable[[], Mapping[str, Any]]) -> None:
        number = self._restarts * STRIDE + self._number
        self._number += 1
        if number > self._after:
            self._say(kind, {"type": kind, "sequence_number": number, **fields()})

    @property
    def next_number(self) -> int:
        """The number of the next event."""
        return self._restarts * STRIDE + self._number

    def lifecycle(self, number: int, kind: str, response: Callable[[], Mapping[str, Any]]) -> None:
        """Tell one of the first three events, if it was not yet."""
        if self._number <= number:
            self._number = number
            self._emit(kind, lambda: {"response": response()})

    def begin_anew(self, *, counted: bool) -> None:
        """Void everything: the content was replaced. `counted`: the run's record knows of it."""
        self._restarts += counted
        if not counted:
            self._after = -1
        self._number = 0
        self.items.clear()
        self._units.clear()

    # -- what becomes known, in the content's order

    def open_text(self, part: int, kind: str) -> None:
        self._units.append(Text(part, kind))

    def grow_text(self, text: str) -> None:
        unit = self._units[-1]
        assert isinstance(unit, Text)
        unit.append(text)

    def close_text(self, annotations: Sequence[Mapping[str, Any]] = ()) -> None:
        if self._units and isinstance(unit := self._units[-1], Text):
            unit.closed = True
            unit.annotations = annotations

    def annotate(self, part: int, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Note something about a complete text: at its end the response has it as if it had come in time."""
        for unit in self._units:
            if isinstance(unit, Text) and unit.part == part:
                unit.annotations = annotations
        item_id = f"msg_{self._run_id}_{self._name.turn}_{part}"
        for index, item in enumerate(self.items):
            if item["id"] == item_id:
                content = [{**each, "annotations": list(annotations)} for each in item["content"]]
                self.items[index] = {**item, "content": content}

    def open_call(self, call_id: str, *, approved_by: str | None = None) -> None:
        self._units.append(Call(call_id, approved_by=approved_by))

    def close_call(self, part: Mapping[str, Any]) -> None:
        for unit in self._units:
            if isinstance(unit, Call) and unit.call_id == part["call_id"]:
                unit.part = part

    # -- telling

    def pump(self) -> None:
        """Tell what can be told."""
        while self._units and self._told(self._units[0], cut_short=False):
            self._units.popleft()

    def _told(self, unit: Text | Call, *, cut_short: bool) -> bool:
        if isinstance(unit, Text):
            return self._tell_text(unit, cut_short=cut_short)
        if unit.part is None:
            return False
        self._tell_call(unit, unit.part)
        return True

    def finish(self, *, succeeded: bool, content: Sequence[Mapping[str, Any]]) -> None:
        """Tell the rest of a run that is over. Calls that were left unanswered are the caller's to run."""
        calls = {part["call_id"]: part for part in content if part["type"] == "tool_call"}
        while self._units:
            unit = self._units.popleft()
            if isinstance(unit, Text):
                unit.closed = True
                self._tell_text(unit, cut_short=not succeeded and not self._units)
            elif unit.part is not None:
                self._tell_call(unit, unit.part)
            elif unit.call_id in calls:
                self._tell_function_call(unit.call_id, calls[unit.call_id])

    def pause(self, action: Mapping[str, Any]) -> None:
        """Tell the rest up to a pause, and what the run waits for. Other open calls are told after it."""
        calls = {call["call_id"]: call for call in action.get("calls", ())}
        while self._units:
            unit = self._units.popleft()
            if isinstance(unit, Text):
                unit.closed = True
                self._tell_text(unit, cut_short=False)
            elif unit.part is not None:
                self._tell_call(unit, unit.part)
            elif unit.call_id in calls:
                self._tell_approval(action["action_id"], calls.pop(unit.call_id))
        for call in calls.values():
            self._tell_approval(action["action_id"], call)
        for question in action.get("questions", ()):
            self._tell_question(action["action_id"], question)

    # -- items

    def draft(self) -> dict[str, Any] | None:
        """Return the item that is being told, as far as it is known; None if there is none."""
        unit = self._units[0] if self._units else None
        if isinstance(unit, Text) and unit.length:
            return self._text_item(unit, "in_progress", unit.text)
        return None

    def _tell_text(self, unit: Text, *, cut_short: bool) -> bool:
        index, item_id = len(self.items), self._item_id(unit)
        names = self._names[unit.kind]
        place = {"item_id": item_id, "output_index": index, names.place: 0}
        if not unit.begun:
            if not unit.length and not unit.closed:
                return False  # it may be about to be taken back
            unit.begun = True
            empty = self._text_item(unit, "in_progress", None)
            self.emit("response.output_item.added", lambda: {"output_index": index, "item": empty})
            self.emit(names.part_added, lambda: {**place, "part": names.part("")})
        for begin, end in chunk_bounds(unit.told, unit.length, complete=unit.closed):
            unit.told = end
            self.emit(names.delta, lambda b=begin, e=end: {**place, "delta": unit.text[b:e], **names.extra})
        if not unit.closed:
            return False
        self.emit(names.done, lambda: {**place, names.member: unit.text, **names.extra})
        part = names.part(unit.text, unit.annotations)
        self.emit(names.part_done, lambda: {**place, "part": part})
        self._complete(self._text_item(unit, "incomplete" if cut_short else "completed", unit.text))
        return True

    def _item_id(self, unit: Text) -> str:
        prefix = "rs" if unit.kind == "reasoning" else "msg"
        return f"{prefix}_{self._run_id}_{self._name.turn}_{unit.part}"

    def _text_item(self, unit: Text, status: str, text: str | None) -> dict[str, Any]:
        names = self._names[unit.kind]
        parts = [] if text is None else [names.part(text, unit.annotations)]
        if unit.kind != "reasoning":
            item: dict[str, Any] = {"type": "message", "role": "assistant"}
        else:
            item = {"type": "reasoning", "summary": []}
        return {"id": self._item_id(unit), **item, "status": status, names.listed: parts}

    def _complete(self, item: dict[str, Any]) -> None:
        index = len(self.items)
        self.items.append(item)
        self.emit("response.output_item.done", lambda: {"output_index": index, "item": item})

    def _tell_call(self, unit: Call, part: Mapping[str, Any]) -> None:
        """Tell a call that ran in a worker, as one of a remote server's."""
        index, arguments = len(self.items), json_text(part["arguments"])
        item_id = f"mcp_{self._run_id}_{self._name.turn}_{part['call_id']}"
        place = {"item_id": item_id, "output_index": index}
        failed = part["state"] != "completed"
        item: dict[str, Any] = {
            "id": item_id,
            "type": "mcp_call",
            "server_label": SERVER,
            "name": part["name"],
            "approval_request_id": unit.approved_by,
        }
        begun = {**item, "arguments": "", "output": None, "error": None, "status": "in_progress"}
        self.emit("response.output_item.added", lambda: {"output_index": index, "item": begun})
        self.emit("response.mcp_call.in_progress", lambda: place)
        self.emit("response.mcp_call_arguments.delta", lambda: {**place, "delta": arguments})
        self.emit("response.mcp_call_arguments.done", lambda: {**place, "arguments": arguments})
        self.emit(f"response.mcp_call.{'failed' if failed else 'completed'}", lambda: place)
        outcome = {"output": None if failed else json_text(part["result"]), "error": _failure(part)}
        status = {"completed": "completed", "failed": "failed"}.get(part["state"], "incomplete")
        self._complete({**item, "arguments": arguments, **outcome, "status": status})

    def _tell_function_call(self, call_id: str, part: Mapping[str, Any]) -> None:
        """Tell a call that is the caller's to run."""
        item = {"id": f"fc_{self._run_id}_{self._name.turn}_{call_id}", "type": "function_call"}
        self._tell_arguments({**item, "call_id": call_id, "name": part["name"]}, json_text(part["arguments"]))

    def _tell_question(self, action_id: str, question: Mapping[str, Any]) -> None:
        """Tell a question as a function that the client is to call: its output is the answer."""
        call_id = ids.question(self._name.run_id, action_id, question["question_id"])
        arguments = {"question": question["text"]}
        if question.get("options"):
            arguments["options"] = question["options"]
        item = {"id": f"fc_{call_id}", "type": "function_call", "call_id": call_id, "name": ASK}
        self._tell_arguments(item, json_text(arguments))

    def _tell_arguments(self, item: dict[str, Any], arguments: str) -> None:
        index, place = len(self.items), {"item_id": item["id"], "output_index": len(self.items)}
        begun = {**item, "arguments": "", "status": "in_progress"}
        named = {**place, "name": item["name"], "arguments": arguments}
        self.emit("response.output_item.added", lambda: {"output_index": index, "item": begun})
        self.emit("response.function_call_arguments.delta", lambda: {**place, "delta": arguments})
        self.emit("response.function_call_arguments.done", lambda: named)
        self._complete({**item, "arguments": arguments, "status": "completed"})

    def _tell_approval(self, action_id: str, call: Mapping[str, Any]) -> None:
        index = len(self.items)
        item = {
            "id": ids.approval(self._name.run_id, action_id, call["call_id"]),
            "type": "mcp_approval_request",
            "server_label": SERVER,
            "name": call["name"],
            "arguments": json_text(call["arguments"]),
        }
        self.emit("response.output_item.added", lambda: {"output_index": index, "item": item})
        self._complete(item)


ASK: Final = "ask_user"
"""The name of the function call that asks a question."""


class _Names:
    """How events of a kind of text are called."""

    def __init__(
        self,
        event: str,
        part: str,
        extra: Mapping[str, Any],
        fields: Mapping[str, Any],
        *,
        member: str = "text",
        listed: str = "content",
        parts: str = "content_part",
    ) -> None:
        self.delta, self.done = f"response.{event}.delta", f"response.{event}.done"
        self.part_added, self.part_done = f"response.{parts}.added", f"response.{parts}.done"
        self.listed, self.place = listed, f"{listed}_index"
        self.extra = extra
        self.member = member
        self._part, self._fields = part, fields

    def part(self, text: str, annotations: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        noted = {"annotations": list(annotations)} if annotations and "annotations" in self._fields else {}
        return {"type": self._part, self.member: text, **self._fields, **noted}


_TEXTS: Final = {
    "text": _Names("output_text", "output_text", {"logprobs": []}, {"annotations": [], "logprobs": []}),
    "reasoning": _Names("reasoning_text", "reasoning_text", {}, {}),
    "refusal": _Names("refusal", "refusal", {}, {}, member="refusal"),
}
_SUMMARY: Final = _Names(
    "reasoning_summary_text", "summary_text", {}, {}, listed="summary", parts="reasoning_summary_part"
)


def _failure(part: Mapping[str, Any]) -> dict[str, Any] | None:
    if part["state"] == "completed":
        return None
    content = [{"type": "text", "text": json_text(part["result"])}]
    return {"type": "mcp_tool_execution_error", "content": content}
