"""AG-UI: golden streams, a client that verifies and reduces as the stock one does, and what clients may send."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import pytest

from mainstem_api.gateway.adapters.ag_ui import messages, requests
from mainstem_api.gateway.adapters.ag_ui.events import Events
from mainstem_api.gateway.adapters.ag_ui.requests import RunAgentInput
from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_shared import errors
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import jsontext
from mainstem_shared.model.events import Type
from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.testing import run_engine
from support.models import client_views, goldens
from support.models.record_model import RUN, Record


def events_of(attach_point: AttachPoint | None = None, history: Sequence[Any] = ()) -> Events:
    return Events(thread_id="thread", name="r1", run_id=RUN, attach_point=attach_point, history=history)


def told(said: bytes) -> list[dict[str, Any]]:
    blocks = said.decode("utf-8", "surrogatepass").split("\n\n")[:-1]
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


class Client:
    """Verifies as the stock client does, and keeps messages as it does."""

    def __init__(self, known: Sequence[dict[str, Any]] = ()) -> None:
        self.messages: list[dict[str, Any]] = list(known)
        self.open: dict[str, set[str]] = {"TEXT_MESSAGE": set(), "TOOL_CALL": set(), "STEP": set()}
        self.open |= {"REASONING": set(), "REASONING_MESSAGE": set()}
        self.started = self.over = False
        self.outcome: dict[str, Any] = {}

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert not self.over, f"{kind} after the end"
        assert self.started != (kind == "RUN_STARTED")
        assert all(value is not None for name, value in event.items() if name != "value")
        self.started = True
        for entity, suffix in (
            ("STEP", "STARTED"),
            *((name, "START") for name in self.open if name != "STEP"),
        ):
            if kind == f"{entity}_{suffix}":
                assert self.key(event) not in self.open[entity]
                self.open[entity].add(self.key(event))
            elif kind in (f"{entity}_END", f"{entity}_FINISHED"):
                self.open[entity].remove(self.key(event))
        self.reduce(kind, event)

    @staticmethod
    def key(event: dict[str, Any]) -> str:
        return event.get("messageId") or event.get("toolCallId") or event["stepName"]

    def reduce(self, kind: str, event: dict[str, Any]) -> None:
        match kind:
            case "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START":
                said = self.message(event["messageId"], event["role"])
                said.setdefault("content", "")
                said |= {"metadata": event["metadata"]} if "metadata" in event else {}
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                assert event["delta"]
                self.message(event["messageId"])["content"] += event["delta"]
            case "TOOL_CALL_START":
                if not self.calls(event["toolCallId"]):
                    call = {"name": event["toolCallName"], "arguments": ""}
                    made = {"id": event["toolCallId"], "type": "function", "function": call}
                    parent = event["parentMessageId"]
                    self.message(parent, "assistant").setdefault("toolCalls", []).append(made)
            case "TOOL_CALL_ARGS":
                assert event["toolCallId"] in self.open["TOOL_CALL"]
                self.calls(event["toolCallId"])[0]["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                self.result(event)
            case "ACTIVITY_SNAPSHOT":
                shown = self.message(event["messageId"], "activity")
                shown |= {name: event[name] for name in ("activityType", "content")}
            case "MESSAGES_SNAPSHOT":
                self.messages = event["messages"]
            case "RUN_FINISHED" | "RUN_ERROR":
                self.over, self.outcome = True, event
                assert kind == "RUN_ERROR" or not any(self.open.values())
            case _:
                pass

    def message(self, message_id: str, role: str = "") -> dict[str, Any]:
        for message in self.messages:
            if message["id"] == message_id:
                return message
        assert role
        self.messages.append({"id": message_id, "role": role})
        return self.messages[-1]

    def calls(self, call_id: str) -> list[dict[str, Any]]:
        return [call for each in self.messages for call in each.get("toolCalls", ()) if call["id"] == call_id]

    def result(self, event: dict[str, Any]) -> None:
        fields = {"role": "tool", "toolCallId": event["toolCallId"], "content": event["content"]}
        owner = next(
            at
            for at, each in enumerate(self.messages)
            if any(call["id"] == event["toolCallId"] for call in each.get("toolCalls", ()))
        )
        at = owner + 1
        while at < len(self.messages) and self.messages[at]["role"] == "tool":
            at += 1
        self.messages.insert(at, {"id": event["messageId"], **fields})


def read(words: Events, frames: Sequence[Frame], client: Client) -> Client:
    said = [words.opening(), *(words.take([frame]) for frame in frames)]
    if words.resting:
        said.append(words.rest())
    for event in told(b"".join(said)):
        client.take(event)
    return client


def plain(shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without what only snapshots say, and with arguments as what they mean."""
    found = json.loads(json.dumps([{k: v for k, v in each.items() if k != "error"} for each in shown]))
    for message in found:
        for call in message.get("toolCalls", ()):
            with contextlib.suppress(ValueError):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return found


@pytest.mark.parametrize("log", goldens.LOGS)
def test_the_stream_of_a_recorded_log_is_the_golden_one(log: str):
    """Each log from its start, to its end or to the pause."""
    goldens.check("ag-ui", log, goldens.translate(events_of(), goldens.frames(log)))


@pytest.mark.parametrize("log", goldens.LOGS)
def test_who_attaches_anywhere_shows_what_who_stayed_shows(log: str):
    """With or without the messages so far, after any event: the same messages and outcome, no rule broken."""
    frames = goldens.frames(log)
    whole = read(events_of(), frames, Client())
    record = Record()
    for at, frame in enumerate(frames):
        record.take(frame)
        rest = frames[at + 1 :] if frame.type != Type.FINISHED else frames[at:]
        late = read(events_of(record.attach_point()), rest, Client())
        assert plain(late.messages) == plain(whole.messages)
        assert late.outcome == whole.outcome
        asks = {"id": "u1", "role": "user", "content": "Hello"}
        known = messages.of_fold(record.attach_point().fold, messages.Names(RUN))
        again = read(events_of(record.attach_point(), [asks, *known]), rest, Client([asks, *known]))
        assert plain(again.messages) == plain([asks, *whole.messages])


@pytest.mark.parametrize("log", goldens.LOGS)
def test_a_snapshot_is_what_events_made(log: str):
    """What is told event by event, and what a snapshot tells at once, are the same messages."""
    frames = goldens.frames(log)
    record = Record()
    for frame in frames:
        record.take(frame)
    whole = read(events_of(), frames, Client())
    shown = messages.of_fold(record.attach_point().fold, messages.Names(RUN))
    assert plain(whole.messages) == plain(shown)


@engine("ag_ui_activities")
async def ag_ui_activities(run: RunContext[Any]) -> list[str]:
    """Show what is neither text nor call, before, between and after these; replace some of it."""
    await run.data("d", "weather", {"is": "COLD"})
    await run.text("SAID")
    await run.annotate({"type": "url_citation", "url": "https://a.example", "title": "A"})
    await run.annotate({"type": "url_citation", "url": "https://b.example", "title": "B"})
    await run.tool_call("c", "search", {})
    await run.source("https://c.example", title="C")
    await run.tool_result("c", "found")
    await run.data("d", "weather", {"is": "WARM"})
    await run.file(b"bytes", "image/png", name="plot.png", id="f")
    await run.annotate({"type": "url_citation", "url": "https://late.example", "title": "L"})
    await run.refusal("REFUSED")
    return ["OUTPUT"]


async def test_what_is_neither_text_nor_call_is_a_message() -> None:
    """Event by event, in a snapshot at any moment, and when the thread is loaded later: the same under the same ids."""
    frames = client_views.log_of(await run_engine(ag_ui_activities))
    whole = read(events_of(), frames, Client())
    kinds = [each.get("activityType", each["role"]) for each in whole.messages]
    cited, noted = ["mainstem.annotation"] * 2, "mainstem.annotation"
    assert kinds == [
        "mainstem.data", "assistant", "tool", *cited, "mainstem.source", "mainstem.file", noted, "assistant",
        "mainstem.output",
    ]  # fmt: skip
    assert whole.messages[0]["content"]["value"] == {"is": "WARM"}
    assert whole.messages[-1]["content"] == {"value": ["OUTPUT"]}
    assert whole.messages[-2]["metadata"] == {"mainstem": {"refusal": True}}

    def by_id(shown: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(plain(shown), key=lambda each: each["id"])

    record = Record()
    for at, frame in enumerate(frames):
        record.take(frame)
        rest = frames[at + 1 :] if frame.type != Type.FINISHED else frames[at:]
        late = read(events_of(record.attach_point()), rest, Client())
        assert by_id(late.messages) == by_id(whole.messages)
    assert messages.conversation(whole.messages, []) == [
        {"role": "assistant", "content": "SAID", "tool_calls": whole.messages[1]["toolCalls"]},
        {"role": "tool", "tool_call_id": whole.messages[2]["toolCallId"], "content": "found"},
        {"role": "assistant", "content": "REFUSED"},
    ]


def test_an_ag_ui_run_reports_its_own_usage_only():
    """Of a run that paused, each AG-UI run tells what was spent since the one before."""
    before = {"input_tokens": 4, "output_tokens": 5, "total_tokens": 9}
    words = Events(thread_id="t", name="r", run_id=RUN, before=before)
    (spent,) = read(words, goldens.frames("text"), Client()).outcome["usage"]
    told = ("inputTokens", "outputTokens", "totalTokens", "cachedInputTokens", "reasoningTokens")
    assert [spent[name] for name in told] == [8, 2, 10, 4, 2]


def entry(interrupt: str, payload: Any = None, status: str = "resolved") -> requests.ResumeEntry:
    return requests.ResumeEntry(interrupt_id=interrupt, status=status, payload=payload)


@pytest.mark.parametrize(
    ("payload", "decision"),
    [
        ({"approved": True}, {"type": "approve", "reason": None}),
        (True, {"type": "approve", "reason": None}),
        ({"approved": False, "reason": "No."}, {"type": "reject", "reason": "No."}),
        (
            {"approved": True, "editedArgs": {"at": 1}},
            {"type": "edit", "arguments": {"at": 1}, "reason": None},
        ),
        ({"approved": True, "editedArgs": "x"}, {"type": "edit", "arguments": "x", "reason": None}),
        ({"response": "Done."}, {"type": "respond", "text": "Done."}),
    ],
)
def test_what_a_payload_decides(payload, decision):
    given = requests.verdicts([entry(f"{RUN}.act.c.1", payload)])
    assert (given.run_id, given.action_id) == (RUN, "act")
    assert given.decisions() == [{"call_id": "c.1", **decision}]


@pytest.mark.parametrize("payload", [None, "yes", 1, {}, {"approved": "yes"}, {"approved": 1.5}, []])
def test_what_decides_nothing_is_refused(payload):
    """Nothing counts as an approval that is not one."""
    with pytest.raises(errors.InvalidDecision):
        requests.verdicts([entry(f"{RUN}.act.c", payload)]).decisions()


@pytest.mark.parametrize(
    "ids", [["x"], ["a.b"], ["a.b."], [f"{RUN}.a.c", f"{RUN}.b.c"], [f"{RUN}.a.c", "y.a.c"]]
)
def test_interrupts_that_are_not_one_actions_are_stale(ids):
    with pytest.raises(errors.StaleAction):
        requests.verdicts([entry(each, True) for each in ids])


def test_a_cancelled_interrupt_rejects():
    given = requests.verdicts([entry(f"{RUN}.act.c", status="cancelled")])
    assert given.all_cancelled
    assert given.decisions()[0]["type"] == "reject"
    with pytest.raises(errors.InvalidDecision):
        given.answers({"c.1", "c"})


def test_a_conversation_for_engines():
    """Calls keep their results; what is for people only is left out."""
    image = {"type": "image", "source": {"type": "data", "mimeType": "image/png", "value": "AA=="}}
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    sent = [
        {"id": "0", "role": "developer", "content": "Be brief."},
        {"id": "1", "role": "user", "content": [{"type": "text", "text": "Look"}, image]},
        {"id": "2", "role": "reasoning", "content": "Hm."},
        {"id": "3", "role": "assistant", "toolCalls": [call]},
        {"id": "4", "role": "tool", "toolCallId": "c1", "content": "1"},
        {"id": "5", "role": "assistant", "content": "One."},
    ]
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert messages.conversation(sent, [{"description": "page", "value": "/home"}]) == [
        {"role": "system", "content": "Context:\npage: /home"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Look"}, url]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "assistant", "content": "One."},
    ]
    for wrong in (
        {"role": "wizard"},
        {"role": "user", "content": 1},
        {"role": "user", "content": [{"type": "x"}]},
    ):
        with pytest.raises(errors.InvalidRequest):
            messages.conversation([wrong], [])


def test_a_request_is_read_in_camel_case_and_tolerates_more():
    body = RunAgentInput.model_validate_json(
        jsontext.dumps(
            {
                "threadId": "t",
                "runId": "r",
                "protocolVersion": "1.7",
                "messages": [],
                "tools": [{"name": "f", "description": "d", "parameters": {"type": "object"}, "x": 1}],
                "context": [],
                "forwardedProps": {"mainstem": {"engine": "demo"}, "more": 1},
                "somethingNew": True,
            }
        )
    )
    assert (body.thread_id, body.options.engine) == ("t", "demo")
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert body.parameters() == {"tools": [{"type": "function", "function": function}]}
