"""Actions and decisions: what fits what, and what a client cannot change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mainstem_shared import errors
from mainstem_shared.model import actions, interrupts
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
MIXED = interrupts.action_of(
    [
        {"id": "pay", "type": "approval", "value": {"name": "pay", "arguments": {"n": 1}}, "reason": "dear",
         "allowed_decisions": ["approve", "reject"]},
        {"id": "why", "type": "question", "value": {"text": "Why?", "options": ["a", "b"]}},
        {"id": "how", "type": "question", "value": "How many?", "response_schema": {"type": "integer"}},
        {"id": "form", "type": "data", "value": {"draft": [1, 2]}, "response_schema": SCHEMA},
        {"id": "any", "type": "data", "value": "look"},
    ],
    action_id="act", expires_ms=FAR, on_expiry="reject",
)  # fmt: skip
PAY = {"call_id": "pay", "type": "approve"}
ANSWERS = [
    {"question_id": "why", "text": "a"},
    {"question_id": "how", "value": 3},
    {"question_id": "form", "value": {"n": 2}},
    {"question_id": "any", "value": None},
]


def with_answer(question_id: str, **given: Any) -> dict[str, Any]:
    """A whole request about `MIXED`, but for one answer."""
    others = [answer for answer in ANSWERS if answer["question_id"] != question_id]
    return {"decisions": [PAY], "answers": [*others, {"question_id": question_id, **given}]}


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
    (
        "invalid_request",
        CALLS,
        {
            "decisions": [OK, {"call_id": "a", "type": "approve"}],
            "answers": [{"question_id": "a", "text": "x"}],
        },
    ),
    ("invalid_request", CALLS, {"decisions": [OK], "answers": []}),
    ("invalid_request", QUESTIONS, {"decisions": [], "answers": [{"question_id": "q1", "text": "x"}]}),
    ("invalid_request", QUESTIONS, {"answers": [{"question_id": "q1", "text": "x", "value": 1}]}),
    ("invalid_request", QUESTIONS, {"answers": [{"question_id": "q1"}]}),
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


# -- mixtures


def test_a_mixture_is_decided_item_by_item():
    """Approvals as ever, texts as texts, JSON as JSON; each is found by its id."""
    kept = judged(MIXED, decisions=[PAY], answers=ANSWERS)
    found = actions.decisions_of([{"decisions": kept}])
    assert found["pay"].is_approved
    assert found["pay"].arguments == {"n": 1}
    assert (found["why"].text, found["why"].value) == ("a", None)
    assert [found[name].value for name in ("how", "form", "any")] == [3, {"n": 2}, None]
    assert found["form"].text == '{"n":2}'


@pytest.mark.parametrize(
    ("question_id", "text", "value"),
    [
        ("how", "3", 3),
        ("form", '{"n": 4}', {"n": 4}),
        ("any", "free words", "free words"),
        ("any", "[1]", [1]),
    ],
)
def test_clients_that_know_only_texts_answer_with_json_in_them(question_id: str, text: str, value: Any):
    kept = judged(MIXED, **with_answer(question_id, text=text))
    assert actions.decisions_of([{"decisions": kept}])[question_id].value == value


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (with_answer("how", value="three"), "'how' does not fit its schema"),
        (with_answer("how", text="three"), "'how' does not fit its schema"),
        (with_answer("form", value={"n": 1, "more": 2}), "'form' does not fit its schema"),
        (with_answer("why", value=3), "'why' must be a text"),
        (with_answer("why", text=" "), "'why' is empty"),
        ({"decisions": [PAY], "answers": ANSWERS[1:]}, "each question"),
        ({"answers": ANSWERS}, "'pay' is not decided"),
        (
            {"decisions": [{"call_id": "pay", "type": "edit", "arguments": {}}], "answers": ANSWERS},
            "'edit' is not",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_and_says_why(request_: dict[str, Any], words: str):
    with pytest.raises(errors.MainstemError, match=words):
        judged(MIXED, **request_)


def test_what_nobody_decided_is_rejected_item_by_item():
    kept = actions.rejected(MIXED, "late")
    assert [(one["id"], one["type"]) for one in kept] == [
        (name, "reject") for name in ("pay", "why", "how", "form", "any")
    ]


def test_readers_see_what_they_answer_to():
    """Calls and questions, each with what its answer must fit; a plain question looks as it always did."""
    public = MIXED.public()
    assert public["kind"] == "interrupt"
    assert public["calls"][0]["allowed_decisions"] == ["approve", "reject"]
    assert public["questions"][0] == {"question_id": "why", "text": "Why?", "options": ["a", "b"]}
    assert public["questions"][2] == {
        "question_id": "form", "text": '{"draft":[1,2]}', "type": "data", "value": {"draft": [1, 2]},
        "response_schema": SCHEMA,
    }  # fmt: skip
    assert Action.model_validate_json(MIXED.model_dump_json()) == MIXED


@pytest.mark.parametrize(
    "item",
    [
        {"id": "x", "type": "approval", "value": "no call"},
        {"id": "x", "type": "question", "value": 3},
        {"id": "x", "type": "data", "value": 1, "response_schema": {"type": "nonsense"}},
        {"id": "", "type": "data"},
        {"id": "x", "type": "order"},
    ],
)
def test_items_that_nobody_could_answer_are_refused(item: dict[str, Any]):
    with pytest.raises(ValueError, match=r"\w"):
        interrupts.action_of([item], action_id="a", expires_ms=FAR, on_expiry="fail")
    with pytest.raises(ValueError, match="at least one thing"):
        interrupts.action_of([], action_id="a", expires_ms=FAR, on_expiry="fail")


def test_short_forms_are_what_they_always_were():
    """An interrupt of approvals alone, or of plain questions, is the same action as of `request_approval`, `ask`."""
    only_call = interrupts.action_of(
        [{"id": "a", "type": "approval", "value": {"name": "tool", "arguments": {}}}],
        action_id="act", expires_ms=FAR, on_expiry="fail",
    )  # fmt: skip
    call = Call(call_id="a", name="tool", arguments={})
    assert only_call == Action(action_id="act", kind="tool_approval", calls=(call,), expires_ms=FAR)
    only_question = interrupts.action_of(
        [{"id": "q1", "type": "question", "value": "?"}], action_id="act", expires_ms=FAR, on_expiry="fail"
    )
    assert (
        only_question.model_dump()
        == QUESTIONS.model_copy(update={"questions": QUESTIONS.questions[:1]}).model_dump()
    )


KNOWN = {
    "action_id", "kind", "calls", "questions", "expires_ms", "on_expiry", "mark",
    "call_id", "name", "arguments", "allowed_decisions", "reason", "arguments_schema",
    "question_id", "text", "options",
}  # fmt: skip
"""All members that record version 1 knows: its processes refuse any other."""


@pytest.mark.parametrize("action", [CALLS, QUESTIONS], ids=["calls", "questions"])
def test_what_the_first_version_had_is_stored_as_it_knows_it(action: Action):
    """A gateway of version 1 reads the pauses of workers that are upgraded before it."""
    stored = json.loads(action.stored())
    assert KNOWN.issuperset(
        [*stored, *(name for kind in ("calls", "questions") for it in stored.get(kind, ()) for name in it)]
    )


@pytest.mark.parametrize("action", [CALLS, QUESTIONS, MIXED], ids=["calls", "questions", "mixed"])
def test_an_action_is_read_as_it_was_stored(action: Action):
    """Whatever is left out is what it is by default."""
    assert Action.model_validate_json(action.stored()) == action
