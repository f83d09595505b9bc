"""Valid streams of Anthropic's Messages and of Responses, in any way that these are written, and the one message of each.

A `Truth` is drawn first, as for chat completions (`streams`); then how it is written: in which blocks or items, how texts
and arguments are cut, what stands between, and how lines and bytes carry it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from mainstem_tasks.testing.dialects import messages, responses
from support.models.streams import Truth, _pieces

Event = dict[str, Any]
MESSAGE_ENDS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
RESPONSE_CUTS = {"length": "max_output_tokens", "content_filter": "content_filter"}


@st.composite
def message_events(draw: st.DrawFn, truth: Truth) -> list[Any]:
    """The events of one of Anthropic's messages that means `truth`."""
    written = [draw(st.sampled_from([messages.begin(), messages.begin(cache_read_input_tokens=4)]))]
    at = 0
    if truth.reasoning:
        pieces = _pieces(draw, truth.reasoning)
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        signed = {"type": "signature_delta", "signature": "s"}
        written += messages.block(at, "thinking", *deltas, signed, thinking="", signature="")
        at += 1
    if truth.text:
        written += messages.said(at, *_pieces(draw, truth.text))
        at += 1
    for number, (name, arguments) in enumerate(truth.calls):
        at += draw(st.integers(0, 1)) if not number else 0  # some servers leave a place out
        if draw(st.booleans()):
            pieces = [draw(st.sampled_from(["", arguments[:1]]))] if arguments else []
            rest = arguments[len("".join(pieces)) :]
            written += messages.call(at, name, *pieces, *_pieces(draw, rest))
        else:
            written += messages.call(at, name, given=json.loads(arguments))
        at += 1
    reason = (
        "tool_use"
        if truth.calls and truth.reason not in MESSAGE_ENDS
        else MESSAGE_ENDS.get(truth.reason, "end_turn")
    )
    if truth.reason == "MAX_TOKENS":
        reason = "max_tokens"
    if truth.reason == "stop" and truth.calls:
        reason = "tool_use"
    written += messages.end(reason)
    return _with_others(draw, written, {"type": "ping"})


@st.composite
def response_events(draw: st.DrawFn, truth: Truth) -> list[Any]:
    """The events of one response that means `truth`."""
    written: list[list[Any]] = []
    if truth.reasoning:
        written.append(_shortened(draw, responses.thought(0, truth.reasoning)))
    if truth.text:
        written.append(_shortened(draw, responses.said(len(written), *_pieces(draw, truth.text))))
    for name, arguments in truth.calls:
        written.append(_shortened(draw, responses.call(len(written), name, *_pieces(draw, arguments))))
    items = [events[-1]["item"] for events in written]
    why = RESPONSE_CUTS.get(truth.reason, "max_output_tokens" if truth.reason == "MAX_TOKENS" else "")
    output = draw(st.sampled_from([[], items]))
    end = (
        responses.end("incomplete", output=output, incomplete_details={"reason": why})
        if why
        else responses.end(output=output)
    )
    begun = responses.event("created", response={"id": "r", "model": "m"})
    return _with_others(
        draw, [begun, *(one for events in written for one in events), end], {"type": "response.nothing"}
    )


def _shortened(draw: st.DrawFn, events: list[Any]) -> list[Any]:
    """Leave out what another event says again: the pieces, or what announces the item."""
    return draw(st.sampled_from([events, events, events[-1:], [events[0], events[-1]]]))


def _with_others(draw: st.DrawFn, events: list[Any], other: Event) -> list[Any]:
    at = draw(st.integers(1, len(events)))
    return [*events[:at], *([other] if draw(st.booleans()) else []), *events[at:]]


@st.composite
def bodies(draw: st.DrawFn, events: Iterable[Event]) -> bytes:
    """The bytes of such a stream."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    field = draw(st.sampled_from(["data: ", "data:"]))
    named = draw(st.booleans())
    written = []
    for value in events:
        before = f"event: {value['type']}{end}" if named else draw(st.sampled_from(["", ": hi" + end]))
        written.append(f"{before}{field}{json.dumps(value)}{end}{end}")
    return "".join(written).encode()
