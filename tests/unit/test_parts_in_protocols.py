"""Each kind of part, in each protocol: what its clients see of it, or that it says nothing of it.

The table is that of docs/messages.md. Clients follow the run from its start, or come when it is over.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Final

import pytest

from mainstem_api.gateway.adapters.a2a.translator import TaskUpdates
from mainstem_api.gateway.adapters.ag_ui.events import Events
from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream
from mainstem_api.gateway.adapters.langgraph.stream import MODES, GraphRun
from mainstem_api.gateway.adapters.openai_chat.translator import Completion
from mainstem_api.gateway.adapters.openai_responses.translator import Responses
from mainstem_api.gateway.sse import Encoder, NativeEncoder
from mainstem_shared.model.openai_responses import ResponseId
from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.testing import run_engine
from support.models import client_views, goldens
from support.models.record_model import NEW, RUN, SPEC, fresh
from support.paths import ROOT

CITED, NAMED = "https://cited.example/a", "https://named.example/b"
FILE: Final = {"media_type": "image/png", "name": "plot.png"}


@engine("parts_of_all_kinds")
async def parts_of_all_kinds(run: RunContext[Any]) -> dict[str, str]:
    await run.reasoning("THOUGHT")
    await run.text("SAID")
    await run.annotate({"type": "url_citation", "url": CITED, "title": "A", "start_index": 0, "end_index": 4})
    await run.source(NAMED, title="B")
    await run.data("d", "weather", {"is": "WARM"})
    await run.file(b"bytes", "image/png", name="plot.png", id="f")
    await run.refusal("REFUSED")
    await run.finish_reason("length")
    return {"is": "OUTPUT"}


PROTOCOLS: dict[str, Callable[[], Encoder]] = {
    "native": lambda: NativeEncoder(SPEC),
    "AI SDK": lambda: UIMessageStream(run_id=RUN, message_id=RUN),
    "AG-UI": lambda: Events(thread_id="thread", name="r1", run_id=RUN, attach_point=None, history=()),
    "Responses": lambda: Responses(ResponseId(RUN, 0), fresh(dataclasses.replace(NEW))),
    "Chat Completions": lambda: Completion(fresh(NEW), model="m"),
    "LangGraph": lambda: GraphRun(fresh(NEW), modes=MODES, before=()),
    "A2A": lambda: TaskUpdates(fresh(NEW), 1),
}
URL: Final = {"url": NAMED, "title": "B"}
CITATION: Final = {"url": CITED, "title": "A"}
SHOWN: dict[str, dict[str, dict[str, Any] | None]] = {
    "text": {
        "native": {"text": "SAID"},
        "AI SDK": {"type": "text-delta", "delta": "SAID"},
        "AG-UI": {"type": "TEXT_MESSAGE_CONTENT", "delta": "SAID"},
        "Responses": {"type": "output_text", "text": "SAID"},
        "Chat Completions": {"content": "SAID"},
        "LangGraph": {"type": "text", "text": "SAID"},
        "A2A": {"artifactId": "answer", "parts": [{"text": "SAID"}]},
    },
    "refusal": {
        "native": {"text": "REFUSED"},
        "AI SDK": {"type": "text-start", "providerMetadata": {"mainstem": {"refusal": True}}},
        "AG-UI": {"type": "TEXT_MESSAGE_CONTENT", "delta": "REFUSED"},
        "Responses": {"type": "refusal", "refusal": "REFUSED"},
        "Chat Completions": {"refusal": "REFUSED"},
        "LangGraph": {"refusal": "REFUSED"},
        "A2A": {"artifactId": "answer", "parts": [{"text": "REFUSED"}]},
    },
    "annotation": {
        "native": {"annotation": {"type": "url_citation", **CITATION, "start_index": 0, "end_index": 4}},
        "AI SDK": {"type": "source-url", **CITATION},
        "AG-UI": {"type": "CUSTOM", "name": "mainstem.annotation"},
        "Responses": {"type": "url_citation", **CITATION},
        "Chat Completions": {"url_citation": {**CITATION, "start_index": 0, "end_index": 4}},
        "LangGraph": {"type": "citation", **CITATION},
        "A2A": None,
    },
    "source": {
        "native": {"type": "source", **URL},
        "AI SDK": {"type": "source-url", **URL},
        "AG-UI": {"type": "CUSTOM", "name": "mainstem.source", "value": {"id": NAMED, **URL}},
        "Responses": None,
        "Chat Completions": {"url_citation": {**URL, "start_index": 0, "end_index": 0}},
        "LangGraph": {"type": "citation", **URL},
        "A2A": {"data": URL},
    },
    "data": {
        "native": {"type": "data", "name": "weather", "value": {"is": "WARM"}},
        "AI SDK": {"type": "data-weather", "id": "d", "data": {"is": "WARM"}},
        "AG-UI": {"name": "mainstem.data", "value": {"id": "d", "name": "weather", "value": {"is": "WARM"}}},
        "Responses": None,
        "Chat Completions": None,
        "LangGraph": None,
        "A2A": {"data": {"is": "WARM"}, "metadata": {"name": "weather"}},
    },
    "file": {
        "native": {"type": "file", **FILE},
        "AI SDK": {"type": "file", "mediaType": "image/png"},
        "AG-UI": {"type": "CUSTOM", "name": "mainstem.file"},
        "Responses": None,
        "Chat Completions": None,
        "LangGraph": {"type": "image", "mime_type": "image/png", "extras": {"filename": "plot.png"}},
        "A2A": {"mediaType": "image/png", "filename": "plot.png"},
    },
    "output": {
        "native": {"value": {"is": "OUTPUT"}},
        "AI SDK": {"type": "data-output", "data": {"is": "OUTPUT"}},
        "AG-UI": {"name": "mainstem.output", "value": {"is": "OUTPUT"}},
        "Responses": None,
        "Chat Completions": None,
        "LangGraph": None,
        "A2A": {"artifactId": "output", "parts": [{"data": {"is": "OUTPUT"}}]},
    },
    "finish reason": {
        "native": {"finish_reason": "length"},
        "AI SDK": {"type": "finish", "finishReason": "length"},
        "AG-UI": {"type": "CUSTOM", "name": "finish", "value": {"finish_reason": "length"}},
        "Responses": {"incomplete_details": {"reason": "max_output_tokens"}},
        "Chat Completions": {"finish_reason": "length"},
        "LangGraph": {"finish_reason": "length"},
        "A2A": {"metadata": {"finish_reason": "length"}},
    },
}
MARKS: Final = {"annotation": CITED, "source": NAMED, "data": "WARM", "file": "plot.png", "output": "OUTPUT"}
"""What an answer does not have that says nothing of a part."""
AT_THE_END: Final[dict[tuple[str, str], dict[str, Any] | None]] = {
    ("native", "text"): {"type": "text", "text": "SAID"},
    ("native", "annotation"): CITATION,
    ("native", "output"): {"output": {"is": "OUTPUT"}},
    ("AG-UI", "finish reason"): None,  # the event that said it is not there any more
    ("A2A", "refusal"): {"artifactId": "answer", "parts": [{"text": "REFUSED"}]},
}
"""What is told in other words to who comes at the end."""


def holds(told: Any, wanted: dict[str, Any]) -> bool:
    """Whether an object with these members is somewhere in it."""
    if isinstance(told, dict):
        found = all(name in told and told[name] == value for name, value in wanted.items())
        return found or any(holds(value, wanted) for value in told.values())
    return isinstance(told, list) and any(holds(value, wanted) for value in told)


@pytest.mark.parametrize("when", ["from the start", "at the end"])
@pytest.mark.parametrize("kind", SHOWN)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_each_kind_of_part_is_shown_or_left_out(protocol: str, kind: str, when: str) -> None:
    frames = client_views.log_of(await run_engine(parts_of_all_kinds))
    heard = frames if when == "from the start" else frames[-1:]
    said = goldens.translate(PROTOCOLS[protocol](), heard)
    told = list(client_views._events(said))
    wanted = SHOWN[kind][protocol]
    if when == "at the end":
        wanted = AT_THE_END.get((protocol, kind), wanted)
    if wanted is not None:
        assert holds(told, wanted), said.decode()
    elif kind in MARKS:
        assert MARKS[kind] not in said.decode()


@engine("agents_of_a_run")
async def agents_of_a_run(run: RunContext[Any]) -> None:
    """Let an agent work for a call, and start a run of its own."""
    await run.tool_call("outer", "ask", {})
    async with run.agent("EXPERT", parent="outer") as sub:
        await sub.tool_call("inner", "look", {})
        await sub.tool_result("inner", "seen")
        await sub.text("SAID BY IT")
    await run.tool_result("outer", sub.said)
    await run.data("child:r2", "child", {"run_id": "r2", "engine": "CHILD", "key": "k"})
    await run.text("SAID BY THE ROOT")


_WHOSE: Final = {"agent": "agent_1_1", "parent": "outer"}
_EXPERT: Final = {"agent": "EXPERT", "parent": "outer", "state": "completed", "text": "SAID BY IT"}
_CHILD: Final = {"run_id": "r2", "engine": "CHILD", "key": "k"}
AGENTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None] = {
    "native": (
        {"call_id": "inner", **_WHOSE},
        {"name": "agent", "value": _EXPERT},
        {"name": "child", "value": _CHILD},
    ),
    "AI SDK": (
        {"type": "tool-input-available", "providerMetadata": {"mainstem": _WHOSE}},
        {"type": "data-agent", "data": _EXPERT},
        {"type": "data-child", "data": _CHILD},
    ),
    "AG-UI": (
        {"type": "TOOL_CALL_START", "toolCallName": "look", "metadata": {"mainstem": _WHOSE}},
        {"name": "agent", "value": _EXPERT},
        {"name": "child", "value": _CHILD},
    ),
    "A2A": (
        {"call_id": "inner", "result": "seen", **_WHOSE},
        {"data": _EXPERT, "metadata": {"name": "agent"}},
        {"data": _CHILD, "metadata": {"name": "child"}},
    ),
    "Responses": None,
    "Chat Completions": None,
    "LangGraph": None,
}
"""How an agent's call, the agent and a child are shown; None: the protocol has no word for any of them."""


@pytest.mark.parametrize("when", ["from the start", "at the end"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_agents_and_children_are_told_of_where_there_is_a_word(protocol: str, when: str) -> None:
    """With the call that they work for. Nowhere is what an agent says taken for the run's answer."""
    frames = client_views.log_of(await run_engine(agents_of_a_run))
    heard = frames if when == "from the start" else frames[-1:]
    said = goldens.translate(PROTOCOLS[protocol](), heard)
    told = list(client_views._events(said))
    for wanted in AGENTS[protocol] or ():
        assert holds(told, wanted), said.decode()
    if AGENTS[protocol] is None:
        assert "EXPERT" not in said.decode()
        assert "CHILD" not in said.decode()
    assert "SAID BY THE ROOT" in said.decode()


@engine("parts_cited_late")
async def parts_cited_late(run: RunContext[Any]) -> None:
    await run.text("SAID")
    await run.tool_call("c", "search", {})
    await run.tool_result("c", "found")
    await run.annotate({"type": "url_citation", "url": CITED, "title": "A", "start_index": 0, "end_index": 4})


@pytest.mark.parametrize("protocol", [name for name, shown in SHOWN["annotation"].items() if shown])
async def test_a_text_is_cited_after_it_ended(protocol: str) -> None:
    """Whoever follows has at the end what somebody has who comes then."""
    frames = client_views.log_of(await run_engine(parts_cited_late))
    for heard in (frames, frames[-1:]):
        told = list(client_views._events(goldens.translate(PROTOCOLS[protocol](), heard)))
        wanted = SHOWN["annotation"][protocol]
        if len(heard) == 1:
            wanted = AT_THE_END.get((protocol, "annotation"), wanted)
        assert wanted is not None
        assert holds(told[-1] if protocol == "Responses" else told, wanted), told[-1]


def test_the_table_of_the_documentation_is_this_one() -> None:
    """A dash where a protocol has nothing of a part, and something where it does."""
    text = (ROOT / "docs" / "messages.md").read_text()
    rows = re.search(r"<!-- parts -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL)
    assert rows is not None
    head, _, *lines = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[1].split("\n")]
    assert head[1:] == [name for name in PROTOCOLS if name != "native"]
    assert {line[0].strip("`"): [cell != "-" for cell in line[1:]] for line in lines} == {
        kind: [shown[name] is not None for name in head[1:]] for kind, shown in SHOWN.items()
    }
