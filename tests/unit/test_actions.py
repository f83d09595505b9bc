"""Actions and decisions: what fits what, and what a client cannot change."""

from __future__ import annotations

from typing import Any

import pytest

from mainstem_shared import errors
from mainstem_shared.model import actions
from mainstem_shared.model.actions import Action, Call, Question
from support.models.specs import spec

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False}
FAR = 4_000_000_000_000
CALLS = Action(
    action_id="act",
    kind="tool_approval",
    calls=(
        Call(call_id="a", name="tool", arguments={"n": 1}, arguments_schema=SCHEMA),
        Call(call_id="b", name="other", arguments={}, allowed_decisions=("approve", "respond")),
    ),
    expires_ms=FAR,
)
QUESTIONS = Action(
    action_id="act",
    kind="question",
    questions=(Question(question_id="q1", text="?"), Question(question_id="q2", text="!", options=("x",))),
    expires_ms=FAR,
)
OK = {"call_id": "b", "type": "approve"}


def judged(action: Action = CALLS, **fields: Any) -> list[dict[str, Any]]:
    return actions.judge(action, actions.parse_request({"action_id": "act", **fields}))


REFUSED: list[tuple[str, Action, dict[str, Any]]] = [
    ("undecided_call", CALLS, {}),
    ("undecided_call", CALLS, {"decisions": [OK]}),
    ("invalid_decision", CALLS, {"decisions": [OK, {"call_id": "a", "type": "maybe"}]}),
    ("invalid_decision", CALLS, {"decisions": [OK, {"call_id": "a", "type": "edit"}]}),
    ("invalid_decision", CALLS, {"decisions": [OK, {"call_id": "a", "type": "edit", "arguments": [1]}]}),
    (
        "invalid_decision",
        CALLS,
        {"decisions": [OK, {"call_id": "a", "type": "edit", "arguments": {"n": "x"}}]},
    ),
    ("invalid_decision", CALLS, {"decisions": [OK, {"call_id": "a", "type": "edit", "arguments": {"m": 1}}]}),
    (
        "invalid_decision",
        CALLS,
        {"decisions": [OK, {"call_id": "a", "type": "approve", "arguments": {"n": 2}}]},
    ),
    ("invalid_decision", CALLS, {"decisions": [OK, OK, {"call_id": "a", "type": "approve"}]}),
    ("invalid_decision", CALLS, {"decisions": [OK, {"call_id": "z", "type": "approve"}]}),
    ("invalid_decision", CALLS, {"answers": [{"question_id": "q1", "text": "x"}]}),
    (
        "invalid_decision",
        CALLS,
        {
            "decisions": [
                {"call_id": "a", "type": "approve"},
                {"call_id": "b", "type": "respond", "text": " "},
            ]
        },
    ),
    ("decision_not_allowed", CALLS, {"decisions": [OK, {"call_id": "a", "type": "respond", "text": "x"}]}),
    (
        "decision_not_allowed",
        CALLS,
        {"decisions": [{"call_id": "a", "type": "approve"}, {"call_id": "b", "type": "reject"}]},
    ),
    ("invalid_decision", QUESTIONS, {"answers": [{"question_id": "q1", "text": "x"}]}),
    ("invalid_decision", QUESTIONS, {}),
    ("invalid_decision", QUESTIONS, {"decisions": [{"call_id": "q1", "type": "approve"}]}),
    (
        "invalid_decision",
        QUESTIONS,
        {"answers": [{"question_id": "q1", "text": "x"}, {"question_id": "q2", "text": ""}]},
    ),
    ("invalid_request", CALLS, {"decisions": [OK], "answers": []}),
    ("invalid_request", CALLS, {"decisions": [{**OK, "name": "rm"}]}),
    ("invalid_request", CALLS, {"decisions": [OK], "engine": "other"}),
    ("input_too_large", CALLS, {"decisions": [{**OK, "text": "x" * actions.DECISIONS_LIMIT}]}),
]


@pytest.mark.parametrize(("code", "action", "fields"), REFUSED)
def test_what_does_not_fit_is_refused_with_its_code(code: str, action: Action, fields: dict[str, Any]):
    """Every way to decide too little, too much or nothing has a stable code."""
    with pytest.raises(errors.MainstemError) as refused:
        judged(action, **fields)
    assert refused.value.code == code


def test_decisions_carry_what_the_record_says():
    """Name and arguments come from the action; only an edit brings arguments of its own."""
    decided = judged(
        decisions=[
            {"call_id": "b", "type": "respond", "text": "mine"},
            {"call_id": "a", "type": "edit", "arguments": {"n": 2}},
        ]
    )
    assert decided == [
        {"id": "a", "type": "edit", "name": "tool", "arguments": {"n": 2}},
        {"id": "b", "type": "respond", "name": "other", "text": "mine"},
    ]
    found = actions.decisions_of([{"decisions": decided}])
    assert (found["a"].is_approved, found["a"].arguments, found["b"].is_approved) == (True, {"n": 2}, False)
    (approved, _) = judged(decisions=[OK, {"call_id": "a", "type": "approve"}])
    assert approved["arguments"] == {"n": 1}


def test_later_decisions_join_earlier_ones():
    """All pauses of a run are known by id; the latest counts."""
    first = {"decisions": [{"id": "a", "type": "reject"}, {"id": "b", "type": "answer", "text": "x"}]}
    later = {"decisions": [{"id": "a", "type": "approve", "name": "t", "arguments": {}}]}
    found = actions.decisions_of([first, later])
    assert {name: decision.type for name, decision in found.items()} == {"a": "approve", "b": "answer"}


def test_the_order_of_decisions_does_not_matter_but_everything_in_them_does():
    """Two requests have one digest if and only if they decide the same."""

    def digest(*decisions: dict[str, Any], action: str = "act") -> str:
        return actions.parse_request({"action_id": action, "decisions": list(decisions)}).digest()

    a, b = {"call_id": "a", "type": "approve"}, {"call_id": "b", "type": "reject"}
    assert digest(a, b) == digest(b, a)
    others = [
        digest(a),
        digest(a, {**b, "reason": "no"}),
        digest(a, b, action="act2"),
        digest(b, {**a, "type": "edit"}),
    ]
    assert len({digest(a, b), *others}) == 5


def test_readers_do_not_see_what_is_for_the_server():
    """Schemas and what happens at expiry stay in the record."""
    public = CALLS.public()
    assert set(public) == {"action_id", "kind", "calls", "expires_at"}
    assert set(public["calls"][0]) == {"call_id", "name", "arguments", "allowed_decisions"}
    assert public["expires_at"] == "2096-10-02T07:06:40.000Z"
    assert QUESTIONS.public()["questions"][1] == {"question_id": "q2", "text": "!", "options": ["x"]}


def test_a_fingerprint_ties_decisions_to_one_action_of_one_run():
    """Another run, engine, user or argument is another fingerprint."""
    changed = CALLS.model_copy(update={"calls": (CALLS.calls[0].model_copy(update={"arguments": {"n": 9}}),)})
    prints = {
        CALLS.fingerprint(spec()),
        changed.fingerprint(spec()),
        *(CALLS.fingerprint(spec(**other)) for other in ({"run_id": "x"}, {"engine": "x"}, {"user_id": "x"})),
    }
    assert len(prints) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "tool_approval"},
        {"kind": "question"},
        {"kind": "question", "questions": tuple({"question_id": f"{n}", "text": "?"} for n in range(5))},
        {"kind": "tool_approval", "calls": ({"call_id": "a", "name": "t", "arguments": {}},) * 2},
        {
            "kind": "tool_approval",
            "calls": ({"call_id": "a", "name": "t", "arguments": {}, "allowed_decisions": ()},),
        },
        {
            "kind": "tool_approval",
            "calls": (
                {"call_id": "a", "name": "t", "arguments": {}, "arguments_schema": {"type": "nosuch"}},
            ),
        },
    ],
)
def test_engines_cannot_ask_what_nobody_could_decide(fields: dict[str, Any]):
    """Nothing at all, too much, twice the same, or by a broken schema."""
    with pytest.raises(ValueError, match="validation error"):
        Action.model_validate({"action_id": "a", "expires_ms": 1, **fields})
