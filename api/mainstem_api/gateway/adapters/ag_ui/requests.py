"""Parses what AG-UI clients send: RunAgentInput, and what its `resume` decides about a pending action. Pure.

Of an interrupt's id we take which action and which call it names; everything else stands in our record. A
decision is taken only if it is explicit: a resolved interrupt without a payload approves nothing.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from mainstem_api.gateway.adapters.engine_input import Options
from mainstem_shared import errors
from mainstem_shared.model import runs


class _Wire(BaseModel):
    # Later minor versions may send members that we do not know.
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)


class ResumeEntry(_Wire):
    """A user's answer to one interrupt."""

    interrupt_id: Annotated[str, Field(max_length=512)]
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class AgentOptions(Options):
    """Mainstem's part of a request. What the user says next supersedes what runs, as `abortRun` only cuts."""

    if_active: runs.IfActive = "replace"


class ForwardedProps(BaseModel):
    """What a frontend passes through; `mainstem` is ours."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    mainstem: AgentOptions = Field(default_factory=AgentOptions)


class RunAgentInput(_Wire):
    """What the client posts."""

    thread_id: runs.ThreadId
    run_id: Annotated[str, Field(min_length=1, max_length=255)]
    protocol_version: str | None = None
    parent_run_id: str | None = None
    state: Any = None
    messages: Annotated[list[dict[str, Any]], Field(max_length=10_000)] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    context: list[dict[str, Any]] = Field(default_factory=list)
    forwarded_props: ForwardedProps | None = None
    resume: Annotated[list[ResumeEntry], Field(max_length=256)] | None = None

    @property
    def options(self) -> AgentOptions:
        """What the request says about the run's start."""
        return AgentOptions() if self.forwarded_props is None else self.forwarded_props.mainstem

    @property
    def speaks_1(self) -> bool:
        """Whether the client knows version 1.0: earlier ones do not say which they are, and refuse more."""
        return self.protocol_version is not None and not self.protocol_version.startswith("0")

    def parameters(self) -> dict[str, Any]:
        """Return the frontend's tools, and its state for an engine that knows such a thing."""
        tools = [_chat_tool(tool) for tool in self.tools]
        found = {"tools": tools or None, "state": self.state}
        return {name: value for name, value in found.items() if value is not None}


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    members = ("name", "description", "parameters")
    function = {member: tool[member] for member in members if tool.get(member) is not None}
    if not isinstance(function.get("name"), str):
        raise errors.InvalidRequest("tools: every tool has a name.")
    return {"type": "function", "function": function}


class Verdicts(NamedTuple):
    """What a resume says: which run's action it is about, and each entry with what it is about."""

    run_id: str
    action_id: str
    entries: Sequence[tuple[str, ResumeEntry]]

    @property
    def all_cancelled(self) -> bool:
        """Whether the user decided nothing, but closed what was asked."""
        return all(entry.status == "cancelled" for _, entry in self.entries)

    def decisions(self, questions: Collection[str] = ()) -> list[dict[str, Any]]:
        """Return the entries that are about none of these questions as decisions about tool calls.

        Raises:
            InvalidDecision: a payload decides nothing.
        """
        return [_decision(call_id, entry) for call_id, entry in self.entries if call_id not in questions]

    def answers(self, questions: Collection[str]) -> list[dict[str, Any]]:
        """Return the entries that are about these questions as answers.

        Raises:
            InvalidDecision: a payload is no answer.
        """
        return [_answer(asked_id, entry) for asked_id, entry in self.entries if asked_id in questions]


def verdicts(resume: Sequence[ResumeEntry]) -> Verdicts:
    """Return what a resume is about.

    Raises:
        StaleAction: an interrupt is none of ours, or they are of several actions.
        InvalidDecision: one interrupt is answered twice.
    """
    named = [_named(entry.interrupt_id) for entry in resume]
    about = {(run_id, action_id) for run_id, action_id, _ in named}
    if len(about) != 1:
        raise errors.StaleAction
    if len({asked_id for *_, asked_id in named}) != len(named):
        raise errors.InvalidDecision("Answer each interrupt once.")
    ((run_id, action_id),) = about
    return Verdicts(run_id, action_id, [(n[2], entry) for n, entry in zip(named, resume, strict=True)])


def _named(interrupt_id: str) -> tuple[str, str, str]:
    run_id, dot, rest = interrupt_id.partition(".")
    action_id, second, asked_id = rest.partition(".")
    if not (dot and second and asked_id):
        raise errors.StaleAction
    return run_id, action_id, asked_id


def _decision(call_id: str, entry: ResumeEntry) -> dict[str, Any]:
    if entry.status == "cancelled":
        return {"call_id": call_id, "type": "reject", "reason": "The user cancelled."}
    payload: Any = entry.payload
    if isinstance(payload, bool):
        payload = {"approved": payload}
    if not isinstance(payload, dict):
        raise errors.InvalidDecision(
            "A resolved interrupt needs a payload: {approved, reason?, editedArgs?}."
        )
    if "response" in payload:
        return {"call_id": call_id, "type": "respond", "text": payload["response"]}
    decision: dict[str, Any] = {"call_id": call_id, "reason": payload.get("reason")}  # pyright: ignore[reportUnknownMemberType]
    match payload.get("approved"):  # pyright: ignore[reportUnknownMemberType]
        case True if payload.get("editedArgs") is not None:  # pyright: ignore[reportUnknownMemberType]
            return {**decision, "type": "edit", "arguments": payload["editedArgs"]}
        case True:
            return {**decision, "type": "approve"}
        case False:
            return {**decision, "type": "reject"}
        case _:
            raise errors.InvalidDecision("approved: true or false.")


def _answer(question_id: str, entry: ResumeEntry) -> dict[str, Any]:
    payload: Any = entry.payload
    answer: Any = payload.get("answer") if isinstance(payload, dict) else payload  # pyright: ignore[reportUnknownMemberType]
    if entry.status == "cancelled" or answer is None:
        raise errors.InvalidDecision("Answer every question: {answer}; or cancel all of them.")
    return {"question_id": question_id, ("text" if isinstance(answer, str) else "value"): answer}
