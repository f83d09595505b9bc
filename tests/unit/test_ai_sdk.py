"""The AI SDK's stream, byte by byte: what each recorded log becomes. Real clients read it in `stock_clients`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_api.gateway.adapters.ai_sdk.messages import UIMessage, chat_messages, verdicts
from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream, Version
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry
from support.models import goldens
from support.models.emitting import JSON


@pytest.mark.parametrize("log", goldens.LOGS)
def test_the_stream_of_a_recorded_log_is_the_golden_one(log: str):
    """Each log from its start, to its end or to the pause."""
    goldens.check(
        "ai-sdk", log, goldens.translate(UIMessageStream(run_id="run", message_id="run"), goldens.frames(log))
    )


DIFFERING = ("aborted", "decided", "expired", "paused", "question", "restarted", "resync")
"""Logs of which the versions of the client are told different things."""


@pytest.mark.parametrize("version", [5, 6, 7])
@pytest.mark.parametrize("log", DIFFERING)
def test_each_version_is_told_what_it_can_take(log: str, version: Version):
    """Golden streams for each; what an older client's schema refuses is in none of its own."""
    words = UIMessageStream(run_id="run", message_id="run", version=version)
    said = goldens.translate(words, goldens.frames(log))
    goldens.check("ai-sdk", f"{log}.v{version}", said)
    unknown = {
        5: {"approval", "denied", "reset-step", "interrupted"},
        6: {"reset-step", "interrupted"},
        7: set[str](),
    }
    assert not [
        word for word in unknown[version] if f'{word}"'.encode() in said or f"-{word}-".encode() in said
    ]


def message(role: str, *parts: dict[str, Any], **fields: Any) -> UIMessage:
    return UIMessage(role=role, parts=list(parts), **fields)


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def tool(call_id: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"type": "tool-search", "toolCallId": call_id, "state": state, "input": {"q": call_id}, **fields}


def call(call_id: str, name: str = "search") -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps({"q": call_id}, separators=(",", ":"))}
    return {"id": call_id, "type": "function", "function": function}


def result(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_a_conversation_is_one_of_chat_completions():
    """Every part that a model may read, in rounds; every call has its result, as models require."""
    said = chat_messages(
        [
            message("system", text("Be brief.")),
            message("user", text("Hello "), text("there"), {"type": "data-x", "data": 1}),
            message("user", text("See"), {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA"}),
            message("user", {"type": "file", "mediaType": "application/pdf", "url": "data:,x", "filename": "a.pdf"}),
            message("user", {"type": "source-url", "url": "https://example.org/"}),
            message(
                "assistant",
                {"type": "step-start"},
                {"type": "reasoning", "text": "Hm."},
                text("I look."),
                tool("c1", "output-available", output={"n": 1}),
                tool("c2", "output-error", errorText="no"),
                tool("c3", "input-streaming"),
                text("And again."),
                tool("c4", "output-denied", approval={"id": "a", "approved": False, "reason": "No."}),
                {**tool("c5", "input-available"), "type": "dynamic-tool", "toolName": "other"},
                {"type": "steering-message", "id": "i", "parts": [text("Faster!")]},
                {"type": "step-start"},
                text("Done."),
            ),
        ]
    )  # fmt: skip
    assert said == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello there"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "See"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "file", "file": {"filename": "a.pdf", "file_data": "data:,x"}}],
        },
        {"role": "assistant", "content": "I look.", "tool_calls": [call("c1"), call("c2")]},
        result("c1", '{"n":1}'),
        result("c2", "no"),
        {"role": "assistant", "content": "And again.", "tool_calls": [call("c4"), call("c5", "other")]},
        result("c4", "The user rejected this call. No."),
        result("c5", "The call was not answered."),
        {"role": "user", "content": "Faster!"},
        {"role": "assistant", "content": "Done."},
    ]


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["type", "text", "state", "approval", "toolCallId", "input", "output", "parts", "url"]
            ),
            st.sampled_from(
                [
                    "text",
                    "file",
                    "tool-ask_user",
                    "steering-message",
                    "output-available",
                    "approval-responded",
                ]
            )
            | JSON,
        ),
        max_size=5,
    ),
    st.sampled_from(["user", "assistant", "system"]),
)
def test_parts_of_any_shape_are_read(parts: list[dict[str, Any]], role: str):
    """Whatever a client sends: a conversation, and a verdict or none."""
    chat_messages([message(role, *parts)])
    verdicts(message(role, *parts), None)


def test_verdicts_are_ids_and_nothing_else():
    """What the client claims about input and tool is not read; of answers only fresh ones count."""
    decided = tool("c1", "approval-responded", approval={"id": "act_1:c:1", "approved": True})
    refused = tool(
        "c2", "approval-responded", approval={"id": "act_1:c2", "approved": False, "reason": "No."}
    )
    old = tool("c0", "output-available", approval={"id": "act_0:c0", "approved": True}, output=1)
    given_ = verdicts(message("assistant", text("x"), old, decided, refused), "act_1")
    assert given_ is not None
    assert given_.action_id == "act_1"
    assert given_.decisions == [
        {"call_id": "c:1", "type": "approve", "reason": None},
        {"call_id": "c2", "type": "reject", "reason": "No."},
    ]
    automatic = {**decided["approval"], "id": "act_1:c3", "isAutomatic": True}
    same = verdicts(
        message("assistant", decided, tool("c3", "approval-responded", approval=automatic), refused), "act_1"
    )
    assert same == given_
    assert verdicts(message("assistant", text("x"), old), "act_1") is None

    ask = {"type": "tool-ask_user", "state": "output-available"}
    first = {**ask, "toolCallId": "act_2:q1", "output": "red"}
    second = {**ask, "toolCallId": "act_3:q1", "output": {"a": 1}}
    answered = verdicts(message("assistant", first, second), "act_3")
    assert answered is not None
    assert (answered.action_id, answered.answers) == ("act_3", [{"question_id": "q1", "text": '{"a":1}'}])
    both = verdicts(message("assistant", first, second), None)
    assert both is not None
    assert both.action_id == ""
    kept = {**first, "providerExecuted": True}
    assert verdicts(message("assistant", kept), None) is None


def test_a_continued_message_gets_only_what_is_new():
    """After a decision: the same message, no new step, nothing of what was there; a lost tail is taken back."""
    events = goldens.frames("decided")
    fold = Content()
    for frame in events[:6]:
        fold.apply(frame.type, frame.payload())
    words = UIMessageStream(run_id="run", message_id="mine", known=json.loads(json.dumps(fold.dump())))
    goldens.check("ai-sdk", "decided.continued", goldens.translate(words, events[6:]))
    again = UIMessageStream(run_id="run", message_id="mine", again=True)
    goldens.check("ai-sdk", "decided.again", goldens.translate(again, events))


def test_what_users_say_meanwhile_stands_where_it_was_read():
    """Steering: as an event, and in a state that stands in for it, before the part it came before."""
    said = {"input_id": "i1", "text": "Faster!", "sent_at": "2026-11-21T07:00:00.000Z"}
    parts = [{"type": "text", "text": "w0"}, {"type": "text", "text": "w1"}]
    state = {**Content().dump(), "content": parts, "inputs": [{**said, "part": 1}]}
    heard = [
        frame(1, "message.delta", {"part": 0, "text": "w0"}),
        frame(2, "input.accepted", said),
        frame(3, "snapshot", state),
    ]
    live = goldens.translate(UIMessageStream(run_id="run", message_id="run"), heard)
    late = goldens.translate(UIMessageStream(run_id="run", message_id="run"), heard[2:])
    assert live == late
    assert live.index(b"steering-message") < live.index(b"w1")
    assert live.count(b"steering-message") == 1


def frame(seq: int, kind: str, payload: dict[str, Any]) -> Frame:
    return Frame(Entry(Cursor(2, seq), kind, jsontext.dumps(payload)))


def test_calls_that_nobody_is_asked_about_do_not_hold_back_a_decision():
    """Clients send once every call of the step is decided or done: the others show as such."""
    *before, paused = goldens.frames("paused")
    action = paused.payload()["action"]
    only = {**action, "calls": action["calls"][1:]}
    asked = Frame(Entry(paused.cursor, paused.type, jsontext.dumps({"prev": "2-3", "action": only, "at": 1})))
    for case, version in (("paused.others", None), ("paused.others.v7", 7)):
        words = UIMessageStream(run_id="run", message_id="run", version=version)
        goldens.check("ai-sdk", case, goldens.translate(words, [*before, asked]))
