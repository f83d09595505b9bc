"""Completes a graph's messages with what an abort, a kill or another engine left out of its state.

A graph's state ends with the last step that was whole. The thread also has what was said after that: the
words of an answer that broke off, runs whose worker was killed, turns of other engines. Calls without a
result get one. All of it is new input, before what the user says now.
"""

# messages hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage, convert_to_messages

from mainstem_shared.model import transcripts
from mainstem_shared.model.messages import Message
from mainstem_shared.model.runs import Status

Chat = dict[str, Any]


def missing(
    state: Sequence[BaseMessage], said: Sequence[Message], covers: str | None
) -> list[BaseMessage] | None:
    """Return what the thread has and the state lacks; None if the state is of another branch of the thread.

    `said`: the thread's messages before the run; `covers`: the run that wrote the state last.
    """
    places = [number for number, message in enumerate(said) if message.run_id == covers]
    if not places:
        return None if covers is not None or state else convert_to_messages(transcripts.chat(said))
    answer = said[places[-1]]
    told = transcripts.chat([answer]) if answer.role == "assistant" else []
    lacks = _lacks(state, told, is_whole=answer.status is Status.SUCCEEDED)
    return [*lacks, *convert_to_messages(transcripts.chat(said[places[-1] + 1 :]))]


def _lacks(state: Sequence[BaseMessage], answer: Sequence[Chat], *, is_whole: bool) -> list[BaseMessage]:
    """Return what the last turn of a state lacks of the answer that the thread has.

    Of a run that came to its end the state is whole: what it lacks, the graph has removed.
    """
    since = max((n + 1 for n, message in enumerate(state) if isinstance(message, HumanMessage)), default=0)
    turn = state[since:]
    results = {said["tool_call_id"]: said["content"] for said in answer if said["role"] == "tool"}
    answered = {message.tool_call_id for message in turn if isinstance(message, ToolMessage)}
    open_calls = [
        call for message in turn if isinstance(message, AIMessage) for call in message.tool_calls
        if call["id"] not in answered
    ]  # fmt: skip
    closed = [
        ToolMessage(
            str(results.get(call["id"], transcripts.UNANSWERED)),
            tool_call_id=str(call["id"]),
            name=call["name"],
        )
        for call in open_calls
    ]
    rounds = [number for number, said in enumerate(answer) if said["role"] == "assistant"]
    known = sum(isinstance(message, AIMessage) for message in turn)
    rest: list[Any] = list(answer[rounds[known] :]) if known < len(rounds) and not is_whole else []
    return [*closed, *convert_to_messages(rest)]
