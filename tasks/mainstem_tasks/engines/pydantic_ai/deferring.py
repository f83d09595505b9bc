"""Converts what an agent's deferred tools wait for to what a run asks people, and their decisions back.

An agent in a tool waits inside the call that lets it work: its state and what it asks go with the run's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied, ToolFailed
from pydantic_ai.messages import ModelMessage, ToolCallPart

from mainstem_shared.model import jsontext
from mainstem_shared.model.actions import Decision
from mainstem_tasks.engines.frameworks.agents import Place
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.engines.pydantic_ai import histories


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """`state`: how an agent goes on; `wanted`: what is asked for it, and for the agents in its tools."""

    state: dict[str, Any]
    wanted: list[dict[str, Any]]


class Waiting:
    """What the agents of a segment wait for. `before`: the states of those in tools, of the last segment."""

    def __init__(self, decisions: Mapping[str, Decision], before: Mapping[str, Any]) -> None:
        self._decisions = decisions
        self._before = dict(before)
        self._agents: dict[str, Waits] = {}

    @property
    def states(self) -> dict[str, Any]:
        """The states of the agents in tools that wait, by their places."""
        return {place: waits.state for place, waits in self._agents.items()}

    def take(self, place: Place) -> dict[str, Any] | None:
        """Return the state in which an agent in a tool waited; None if it begins."""
        return self._before.pop("|".join(place), None)

    def keep(self, place: Place, waits: Waits) -> None:
        """Keep what an agent in a tool waits for."""
        self._agents["|".join(place)] = waits

    async def asked(
        self,
        calls: ToolCalls,
        asked: DeferredToolRequests,
        past: list[ModelMessage],
        *,
        place: Place = (),
        thread: Sequence[ModelMessage] = (),
    ) -> Waits:
        """Return what an agent waits for; calls in which agents wait are not asked about themselves."""
        for call in (*asked.approvals, *asked.calls):
            await calls.complete(call.tool_call_id, call.tool_name, call.args_as_dict())
        below = {call.tool_call_id: self._below((*place, call.tool_call_id)) for call in asked.approvals}
        approvals = [call for call in asked.approvals if not below[call.tool_call_id]]
        state = {
            **histories.state_of(past, thread),
            "approvals": [call.tool_call_id for call in approvals],
            "calls": [call.tool_call_id for call in asked.calls],
            "within": [theirs for theirs, waits in below.items() if waits],
        }
        wanted = [
            *(_asked(calls, call, asked, "approve", "reject", "edit", "respond") for call in approvals),
            *(_asked(calls, call, asked, "respond", "reject") for call in asked.calls),
            *(one for waits in below.values() for inner in waits for one in inner.wanted),
        ]
        return Waits(state=state, wanted=wanted)

    async def decided(self, calls: ToolCalls, state: dict[str, Any]) -> DeferredToolResults:
        """Return what was decided about the calls that an agent waited for."""
        for theirs in state["approvals"]:
            decision = self._decisions[calls.id_of(theirs)]
            if decision.type == "edit":  # readers see what the tool is called with
                await calls.edit(theirs, str(decision.name), decision.arguments or {})
        approvals = {theirs: _approval(self._decisions[calls.id_of(theirs)]) for theirs in state["approvals"]}
        again = {theirs: ToolApproved() for theirs in state.get("within", ())}
        results = {theirs: _result(self._decisions[calls.id_of(theirs)]) for theirs in state["calls"]}
        return DeferredToolResults(approvals={**approvals, **again}, calls=results)

    def _below(self, place: Place) -> list[Waits]:
        base = "|".join(place)
        return [waits for key, waits in self._agents.items() if key == base or key.startswith(f"{base}#")]


def output_type(wanted: Any) -> Any:
    """Return an agent's output type, with the calls that a run may wait for."""
    kinds: list[Any] = [*wanted] if isinstance(wanted, list | tuple) else [wanted]
    return kinds if DeferredToolRequests in kinds else [*kinds, DeferredToolRequests]


def _asked(
    calls: ToolCalls, call: ToolCallPart, asked: DeferredToolRequests, *allowed: str
) -> dict[str, Any]:
    reason = asked.metadata.get(call.tool_call_id, {}).get("reason")
    ours = calls.id_of(call.tool_call_id)
    return {
        "call_id": ours,
        "name": call.tool_name,
        "arguments": call.args_as_dict(),
        "allowed_decisions": allowed,
        **calls.asker(ours),
        **({"reason": reason} if isinstance(reason, str) else {}),
    }


def _approval(decided: Decision) -> ToolApproved | ToolDenied:
    match decided.type:
        case "edit":
            return ToolApproved(override_args=dict(decided.arguments or {}))
        case "approve":
            return ToolApproved()
        case "respond":  # a human's words in place of the tool's result
            return ToolDenied(decided.text or "")
        case _:
            return ToolDenied(decided.reason or "The tool call was denied.")


def _result(decided: Decision) -> Any:
    """Return the result of a call that was run elsewhere: JSON if it is, else the text as it is."""
    if decided.type != "respond":
        return ToolFailed(decided.reason or "The tool call was denied.")
    try:
        return jsontext.loads(decided.text or "")
    except ValueError:
        return decided.text
