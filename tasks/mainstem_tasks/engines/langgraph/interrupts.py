"""Converts a graph's interrupts to items of a pause, and people's decisions to the graph's resume value."""

# an interrupt's value may be anything: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.types import Interrupt
from pydantic_core import to_jsonable_python

from mainstem_shared.model.actions import Decision
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls


class Asked(TypedDict):
    """How one interrupt was asked: `review` of several calls, `call` of one, or any `value`."""

    kind: str
    ids: list[str]


Item = dict[str, Any]


class Asking:
    """The items that a run asks people about, for a graph's interrupts."""

    def __init__(self, messages: Sequence[BaseMessage], calls: ToolCalls) -> None:
        self.items: list[Item] = []
        self.asked: dict[str, Asked] = {}
        self._calls = calls
        last = next((m for m in reversed(messages) if isinstance(m, AIMessage) and m.tool_calls), None)
        self._unasked = [] if last is None else [dict(call) for call in last.tool_calls]

    def ask(self, interrupt: Interrupt) -> None:
        """Add what an interrupt asks: middleware's requests are approvals of calls, all else is shown."""
        match interrupt.value:
            case {"type": "tool_approval", "tool_call_id": str() as theirs, **request}:
                known = self._is_the_graphs(theirs, request)
                self._approval(theirs if known else self._call_of_agent(request) or theirs, request, None)
                self.asked[interrupt.id] = Asked(kind="call", ids=[self.items[-1]["id"]])
            case {"action_requests": requests, "review_configs": reviews}:
                first = len(self.items)
                for number, (request, review) in enumerate(zip(requests, reviews, strict=True)):
                    theirs = (
                        self._call_of(request) or self._call_of_agent(request) or f"{interrupt.id}:{number}"
                    )
                    self._approval(theirs, request, review["allowed_decisions"])
                self.asked[interrupt.id] = Asked(kind="review", ids=[i["id"] for i in self.items[first:]])
            case str() as text if text:
                self.items.append({"id": interrupt.id, "type": "question", "value": text})
                self.asked[interrupt.id] = Asked(kind="value", ids=[interrupt.id])
            case value:
                shown = to_jsonable_python(value, serialize_unknown=True)
                self.items.append({"id": interrupt.id, "type": "data", "value": shown})
                self.asked[interrupt.id] = Asked(kind="value", ids=[interrupt.id])

    def _approval(self, theirs: str, request: Mapping[str, Any], allowed: Sequence[str] | None) -> None:
        ours = self._calls.opened.get(theirs, theirs)
        asked = {"name": request["name"], "arguments": request["args"], **self._calls.asker(ours)}
        self.items.append(
            {
                "id": ours,
                "type": "approval",
                "value": asked,
                "reason": request.get("description") or None,
                "allowed_decisions": allowed,
            }
        )

    def _is_the_graphs(self, theirs: str, request: Mapping[str, Any]) -> bool:
        """Tell whether a call is of the graph's own messages: an agent in a tool may use the same ids."""
        wanted = (theirs, request["name"], request["args"])
        return any((call["id"], call["name"], call["args"]) == wanted for call in self._unasked)

    def _call_of(self, request: Mapping[str, Any]) -> str | None:
        """Return the id of the call that a request is about: middleware tells name and arguments alone."""
        for call in self._unasked:
            if (call["name"], call["args"]) == (request["name"], request["args"]):
                self._unasked.remove(call)
                return str(call["id"])
        return None

    def _call_of_agent(self, request: Mapping[str, Any]) -> str | None:
        """Return the run's id of the same for an agent in a tool: its messages are not the graph's."""
        asked = {item["id"] for item in self.items}
        return self._calls.find(request["name"], request["args"], but=asked)


def answers(asked: Mapping[str, Asked], decisions: Mapping[str, Decision]) -> dict[str, Any]:
    """Return what a graph is resumed with, by interrupt."""
    return {interrupt: _answer(one, [decisions[i] for i in one["ids"]]) for interrupt, one in asked.items()}


def _answer(asked: Asked, decided: Sequence[Decision]) -> Any:
    match asked["kind"]:
        case "review":
            return {"decisions": [_decision(one) for one in decided]}
        case "call":
            return _decision(decided[0])
        case _:
            return decided[0].value if decided[0].text is None else decided[0].text


def _decision(decided: Decision) -> dict[str, Any]:
    match decided.type:
        case "edit":
            action = {"name": decided.name, "args": dict(decided.arguments or {})}
            return {"type": "edit", "edited_action": action}
        case "reject":
            return {"type": "reject", "message": decided.reason or ""}
        case "respond":
            return {"type": "respond", "message": decided.text or ""}
        case _:
            return {"type": "approve"}
