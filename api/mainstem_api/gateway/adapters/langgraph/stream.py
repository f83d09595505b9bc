"""Translates a run into LangGraph's stream events, in the stream modes that the client asks for. Pure.

An event's id says how much was said up to it, as in Chat Completions, whose translator this builds on: so a
stream is joined again exactly, at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.langgraph import messages
from mainstem_api.gateway.adapters.openai_chat.translator import Completion, Place
from mainstem_api.gateway.adapters.translator import encode_event
from mainstem_shared.model.events import Type

NODE: Final = "agent"
"""The one node that the graph of an engine has."""
MODES: Final = frozenset({"values", "messages", "messages-tuple", "updates", "custom", "events"})


def path_of(thread_id: str, run_id: str) -> str:
    """Return where a run is, as this API's headers name it."""
    return f"/threads/{quote(thread_id, safe='')}/runs/{run_id}"


class GraphRun(Completion):
    """One run for one client. `before`: the messages of its thread, those that it answers included."""

    def __init__(
        self,
        attach_point: AttachPoint,
        *,
        modes: Collection[str],
        before: Sequence[Mapping[str, Any]],
        after: Place | None = None,
    ) -> None:
        super().__init__(attach_point, model=attach_point.spec.engine, after=after)
        spec = attach_point.spec
        path = path_of(spec.thread_id, spec.run_id)
        self.headers: Sequence[tuple[bytes, bytes]] = (
            (b"content-location", path.encode()),
            (b"location", f"{path}/stream".encode()),
        )
        self._modes = modes
        self._before = before
        self.values: dict[str, Any] = {"messages": list(before)}

    def opened(self) -> None:
        self._event("metadata", {"run_id": self.run_id, "attempt": 1})
        if self._after == Place() and "values" in self._modes:
            self._event("values", self.values)
        if self._after == Place():
            self._log_event("on_chain_start", {"input": self.values})
        super().opened()

    def noted(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == Type.CUSTOM and data["name"] != "finish" and "custom" in self._modes:
            self._event("custom", {data["name"]: data["data"]})

    def rewound(self) -> None:
        self._place = Place()  # chunks of a message are added up: the whole of it replaces them at the end
        self._after = Place()

    def rested(self, action: Mapping[str, Any]) -> None:
        asked = messages.interrupts(action)
        self._end(__interrupt__=asked)

    def _finish(self) -> None:
        self._end()

    def _fail(self, message: str, code: str) -> None:
        self._event("error", {"error": code, "message": message})
        self.over = True

    def _add_call(self, call_id: str, name: str, arguments: Any) -> None:
        del call_id, name, arguments  # it stands in the message

    def _end(self, **more: Any) -> None:
        content, reason = self.fold.dump()["content"], self.fold.extra.get("finish_reason")
        said = list(messages.of_content(self.run_id, content, finish_reason=reason))
        self.values = {"messages": [*self._before, *said], **more}
        self._log_event("on_chain_end", {"output": self.values})
        if "messages" in self._modes:
            self._event("messages/complete", said[:1])
        if "updates" in self._modes:
            self._event("updates", more or {NODE: {"messages": said}})
        if "values" in self._modes:
            self._event("values", self.values)
        self.over = True

    def _say_delta(self, delta: Mapping[str, Any]) -> None:
        text = delta.get("content")
        if not text:
            return
        chunk: dict[str, Any] = {
            "type": "AIMessageChunk",
            "id": self.run_id,
            "content": text,
            "tool_call_chunks": [],
        }
        self._log_event("on_chat_model_stream", {"chunk": chunk})
        if "messages-tuple" in self._modes:
            self._event("messages", [chunk, {"langgraph_node": NODE, "run_id": self.run_id}])
        if "messages" in self._modes:
            whole = {"type": "ai", "id": self.run_id, "content": self.fold.text or text}
            self._event("messages/partial", [whole])

    def _log_event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Say an event as LangChain's `astream_events` (v2) has them."""
        if "events" not in self._modes:
            return
        name = NODE if kind.startswith("on_chat_model") else self._attach_point.spec.engine
        about: dict[str, Any] = {"name": name, "run_id": self.run_id, "parent_ids": [], "tags": []}
        self._event("events", {"event": kind, "data": data, "metadata": {}, **about})

    def _event(self, kind: str, payload: Any) -> None:
        self.say_raw(b"id: %s\n%s" % (str(self._place).encode(), encode_event(payload, event=kind)))
