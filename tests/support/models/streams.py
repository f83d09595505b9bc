"""Valid streams of chat completions, in any way that servers write them, and the one message that each means.

A `Truth` is drawn first; then how it is written: where reasoning and counts stand, how calls are numbered, named
and cut, in which order pieces come, and how lines and bytes carry them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from mainstem_shared.model import jsontext

NAMES = ("forecast", "purge", "send_mail")
WHOLE = ("stop", "tool_calls", "STOP", "eos")
CUT = ("length", "content_filter", "MAX_TOKENS")


@dataclass(frozen=True)
class Truth:
    """What the model said."""

    reasoning: str
    text: str
    calls: tuple[tuple[str, str], ...]
    """Names, and arguments as JSON text."""
    reason: str


_TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["a 😀 b", "é\n\n", "{}", "data: x", "\\ud83d"]
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9999) | _TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2),
    max_leaves=4,
)
_ARGUMENTS = st.dictionaries(st.sampled_from(["city", "pattern", "n"]), _VALUE, max_size=3)


def _plain(text: str) -> bool:
    return not text.lstrip().startswith(("<", "["))


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    calls = draw(st.lists(st.tuples(st.sampled_from(NAMES), _ARGUMENTS), max_size=3))
    text = jsontext.well_formed(draw(_TEXT.filter(_plain)))
    reasoning = jsontext.well_formed(draw(st.just("") | _TEXT)).replace("</think>", "").lstrip()
    if not calls and not text.strip():
        text = "said"
    spelled = tuple((name, _spell(draw, jsontext.well_formed(arguments))) for name, arguments in calls)
    whole = WHOLE if calls else tuple(word for word in WHOLE if word != "tool_calls")
    return Truth(reasoning, text, spelled, draw(st.sampled_from(whole) | st.sampled_from(CUT)))


def _spell(draw: st.DrawFn, arguments: dict[str, Any]) -> str:
    return json.dumps(
        arguments, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1]))
    )


def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text between any of its UTF-16 units, as some tokenizers do."""
    units = text.encode("utf-16-le", "surrogatepass")
    at = sorted({0, len(units) // 2, *draw(st.lists(st.integers(0, max(0, len(units) // 2)), max_size=4))})
    cut = [units[2 * a : 2 * b].decode("utf-16-le", "surrogatepass") for a, b in itertools.pairwise(at)]
    return cut or [text]


def _delta(**members: Any) -> dict[str, Any]:
    return members


def _thoughts(draw: st.DrawFn, truth: Truth) -> tuple[list[dict[str, Any]], str]:
    """Return the deltas of the reasoning, and the content that the text becomes."""
    if not truth.reasoning:
        return [], truth.text
    style = draw(st.sampled_from(["reasoning_content", "reasoning", "both", "parts", "tags"]))
    if style == "tags" and truth.text == truth.text.lstrip():
        return [], f"<think>{truth.reasoning}</think>{draw(st.sampled_from(['', chr(10) * 2]))}{truth.text}"
    pieces = _pieces(draw, truth.reasoning)
    if style == "parts":
        return [
            _delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": p}]}]) for p in pieces
        ], truth.text
    names = ["reasoning_content", "reasoning"] if style in ("both", "tags") else [style]
    return [_delta(**dict.fromkeys(names, piece)) for piece in pieces], truth.text


def _calls(draw: st.DrawFn, truth: Truth) -> list[dict[str, Any]]:
    """Return the pieces of the calls, in one of the orders that the way of telling them apart allows."""
    style = draw(
        st.sampled_from(["numbered", "numbered", "from one", "ids only", "zero and ids", "zero", "new ids"])
    )
    written: list[list[dict[str, Any]]] = []
    for number, (name, arguments) in enumerate(truth.calls):
        written.append(_call(draw, style, number, name, arguments))
    if style in ("numbered", "from one"):
        return _interleaved(draw, written)
    return [piece for pieces in written for piece in pieces]


def _call(draw: st.DrawFn, style: str, number: int, name: str, arguments: str) -> list[dict[str, Any]]:
    pieces = _pieces(draw, arguments)
    empty_first, again = draw(st.booleans()), draw(st.sampled_from(["", "", "id", "header", "end"]))
    if draw(st.booleans()) and style != "zero":
        pieces = [json.loads(arguments)]
    elif empty_first:
        pieces = ["", *pieces]
    ids = {"zero": "", "new ids": f"{number}-0"}.get(style, f"call_{number}")
    index = {"numbered": number, "from one": number + 1, "ids only": None}.get(style, 0)
    found: list[dict[str, Any]] = []
    for at, piece in enumerate(pieces):
        first = at == 0
        call: dict[str, Any] = {"function": {"arguments": piece}}
        if index is not None:
            call["index"] = draw(st.sampled_from([index, index, str(index), float(index)]))
        if first or (again in ("id", "header") and style not in ("zero", "new ids")):
            call["id"] = ids or draw(st.sampled_from(["", None]))
        if first or (again == "header" and style not in ("zero", "new ids")):
            call["function"]["name"] = name
        if not first and style == "new ids":
            call["id"] = f"{number}-{at}"
            call["function"]["name"] = draw(st.sampled_from(["", None]))
        found.append(call)
    if again == "end" and style in ("numbered", "from one") and len(pieces) > 1:
        found.append({"index": index, "function": {"arguments": arguments}})  # said twice
    return found


def _interleaved(draw: st.DrawFn, written: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    queues = [list(pieces) for pieces in written if pieces]
    order: list[dict[str, Any]] = []
    started = 1
    while queues:
        # A call's first piece comes after that of the call before it: that is the order of the calls.
        at = draw(st.integers(0, min(started, len(queues)) - 1))
        order.append(queues[at].pop(0))
        if at == started - 1:
            started += 1
        if not queues[at]:
            queues.pop(at)
            started -= 1
        started = max(1, min(started, len(queues)))
    return order


@st.composite
def values(draw: st.DrawFn, truth: Truth) -> list[Any]:
    """The JSON values of a stream that means `truth`."""
    thoughts, content = _thoughts(draw, truth)
    in_parts = draw(st.booleans()) and not content.startswith("<think>")
    texts = [
        _delta(content=[{"type": "text", "text": piece}] if in_parts else piece)
        for piece in _pieces(draw, content)
        if piece
    ]
    pieces = _calls(draw, truth)
    together = draw(st.booleans())
    calls = [_delta(tool_calls=[piece]) for piece in pieces]
    if together and pieces:
        calls = [_delta(tool_calls=pieces)]
    empty = draw(
        st.sampled_from([[], [_delta(role="assistant", content="")], [_delta(content=None, tool_calls=None)]])
    )
    deltas = [*empty, *thoughts, *texts, *calls]
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    unsaid = draw(st.sampled_from([None, "", "null"]))
    chunks = [_chunk(delta, unsaid) for delta in deltas]
    if draw(st.booleans()) and chunks and not together:
        chunks[-1]["choices"][0]["finish_reason"] = truth.reason
    else:
        chunks.append(_chunk({}, truth.reason))
    where = draw(st.sampled_from(["own", "choice", "x", "running"]))
    if where == "own":
        chunks.append({"choices": [], "usage": usage})
    elif where == "choice":
        chunks[-1]["choices"][0]["usage"] = usage
    elif where == "x":
        chunks[-1]["x_groq"] = {"usage": usage}
    else:
        for chunk in chunks:
            chunk["usage"] = usage
    return chunks


def _chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


@st.composite
def bodies(draw: st.DrawFn, truth: Truth) -> bytes:
    """The bytes of such a stream."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    field = draw(st.sampled_from(["data: ", "data:"]))
    between = draw(st.sampled_from([end, end + ": ping" + end + end, ""]))
    before = draw(st.sampled_from(["", "event: message" + end, ": hi" + end]))
    ascii_only = draw(st.booleans())
    written = []
    for value in draw(values(truth)):
        spelled = json.dumps(value, ensure_ascii=ascii_only)
        try:
            spelled.encode()
        except UnicodeEncodeError:
            spelled = json.dumps(value)
        written.append(f"{before}{field}{spelled}{end}{between}")
    if draw(st.booleans()):
        written.append(f"{field}[DONE]{end}")
    return "".join(written).encode()


def split(body: bytes, at: Sequence[int]) -> list[bytes]:
    """Cut bytes at these places."""
    places = [0, *sorted({place for place in at if 0 < place < len(body)}), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(places)]
