"""An action is what a paused run waits for, a decision a human's answer: their shapes, and which answer fits.

Pure: no store, no clock. An action stands in the run's record with its server-only parts (schemas, what
happens at its expiry); readers get `public`. Decisions are judged against the record's action alone, so that
nothing a client sends can change what was approved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mainstem_shared import errors
from mainstem_shared.model import digests, ids, jsontext, runs, validation

ACTION_LIMIT: Final = 192 * 1024
"""Largest action, in bytes of JSON: it stands in the log, the snapshot and the record."""
DECISIONS_LIMIT: Final = 128 * 1024
"""Largest set of decisions or answers, in bytes of JSON."""
CHECKPOINT_LIMIT: Final = 1024 * 1024
"""Largest state an engine may save, in bytes: it is kept for as long as a human takes."""

QUESTIONS_LIMIT: Final = 4
"""Questions that one action of that kind asks."""

DecisionType = Literal["approve", "reject", "edit", "respond"]
OnExpiry = Literal["fail", "reject"]
DECISIONS: Final[tuple[DecisionType, ...]] = ("approve", "reject", "edit", "respond")
DEFAULT_DECISIONS: Final[tuple[DecisionType, ...]] = ("approve", "reject", "edit")
"""What may be decided about a call unless its tool says otherwise; to respond in its place is opted in to."""

_Id = Annotated[str, Field(min_length=1, max_length=128)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Call(_Strict):
    """A tool call that waits for approval. `arguments_schema` is for judging edits, and not shown."""

    call_id: _Id
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: dict[str, Any]
    allowed_decisions: Annotated[tuple[DecisionType, ...], Field(min_length=1)] = DEFAULT_DECISIONS
    reason: str | None = None
    arguments_schema: dict[str, Any] | None = None
    agent: str | None = None
    """The sub-agent that wants to make the call, and (`parent`) the call that it works for."""
    parent: str | None = None

    @model_validator(mode="after")
    def _schema_is_one(self) -> Self:
        _check_schema("arguments_schema", self.arguments_schema)
        return self

    def public(self) -> dict[str, Any]:
        """Return what readers see."""
        return self.model_dump(mode="json", exclude={"arguments_schema"}, exclude_none=True)


def _check_schema(name: str, schema: dict[str, Any] | None) -> None:
    if schema is not None:
        from mainstem_shared.model import bounded_schemas

        bounded_schemas.check(name, schema)


def _validate(schema: bytes, value: Any) -> None:
    from mainstem_shared.model import bounded_schemas

    bounded_schemas.validate(schema, value)


class Question(_Strict):
    """A question to the user: free text, or one of the `options` (which only suggest).

    One of type `data` shows a `value`. Its answer, and that to a question with a `response_schema`, is JSON.
    """

    question_id: _Id
    text: Annotated[str, Field(min_length=1, max_length=8192)]
    options: Annotated[tuple[str, ...], Field(min_length=1, max_length=50)] | None = None
    type: Literal["question", "data"] = "question"
    value: Any = None
    response_schema: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _schema_is_one(self) -> Self:
        _check_schema("response_schema", self.response_schema)
        return self

    @property
    def wants_json(self) -> bool:
        """Whether its answer is JSON, not just a text."""
        return self.type == "data" or self.response_schema is not None

    def public(self) -> dict[str, Any]:
        """Return what readers see."""
        shown = self.model_dump(mode="json", exclude={"type", "value"}, exclude_none=True)
        return {**shown, "type": self.type, "value": self.value} if self.type == "data" else shown


class Wait(_Strict):
    """What a run waits for that no human decides: a time, or an event.

    Attributes:
        wait_id: what its outcome is found by, in `run.decisions`.
        event: the key of the event; None: the end of the action's window.
        since_ms: events since then count, also if they came before the run waited.
        runs: the runs that are to be over, instead.
    """

    wait_id: _Id
    event: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    since_ms: int = 0
    runs: Annotated[tuple[str, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _waits_for_runs(self) -> Self:
        for run_id in self.runs:
            if not ids.is_run_id(run_id):
                raise ValueError(f"{run_id!r} is no run's id")
        return self

    @property
    def is_timed(self) -> bool:
        """Whether it waits for nothing but the end of the action's window."""
        return self.event is None and not self.runs


class Action(_Strict):
    """What a paused run waits for, as its record has it."""

    action_id: _Id
    kind: Literal["tool_approval", "question", "interrupt", "sleep", "event", "children"]
    """`interrupt`: calls and questions, or many questions. `sleep`, `event`, `children`: a `wait`."""
    calls: Annotated[tuple[Call, ...], Field(max_length=128)] = ()
    questions: Annotated[tuple[Question, ...], Field(max_length=128)] = ()
    wait: Wait | None = None
    expires_ms: int
    on_expiry: OnExpiry = "fail"
    mark: dict[str, Any] | None = None
    """Where the content stood at the pause (`transitions.mark`): for readers, no part of what is decided."""

    @model_validator(mode="after")
    def _asks_something_once(self) -> Self:
        asked = [*(c.call_id for c in self.calls), *(q.question_id for q in self.questions)]
        if bool(asked) == (self.wait is not None) or len(set(asked)) != len(asked):
            raise ValueError("an action asks about at least one thing, and about each once")
        if self.kind == "question" and len(self.questions) > QUESTIONS_LIMIT:
            raise ValueError(f"up to {QUESTIONS_LIMIT} questions at once; an interrupt may have more items")
        return self

    def stored(self) -> str:
        """Return it as its record has it: members that an earlier version may not know only if used."""
        return self.model_dump_json(exclude_defaults=True)

    def public(self) -> dict[str, Any]:
        """Return what readers see."""
        asked: dict[str, Any] = {}
        if self.calls:
            asked["calls"] = [call.public() for call in self.calls]
        if self.questions:
            asked["questions"] = [question.public() for question in self.questions]
        if self.wait is not None and self.wait.event is not None:
            asked["event"] = self.wait.event
        if self.wait is not None and self.wait.runs:
            asked["runs"] = list(self.wait.runs)
        expires_at = runs.rfc3339(self.expires_ms)
        return {"action_id": self.action_id, "kind": self.kind, **asked, "expires_at": expires_at}

    def fingerprint(self, spec: runs.Spec) -> str:
        """Return the digest that ties decisions to this very action of this very run."""
        decided = self.model_dump(mode="json", exclude={"mark"})
        return digests.of_json([spec.run_id, spec.engine, spec.user_id, decided])


class DecisionInput(_Strict):
    """What a client decides about one call. The type is free here: an unknown one has an error of its own."""

    call_id: str
    type: str
    reason: Annotated[str, Field(max_length=8192)] | None = None
    arguments: Any = None
    text: str | None = None


class AnswerInput(_Strict):
    """A client's answer to one question: a text, or a `value`, any JSON, where the question wants JSON."""

    question_id: str
    text: str | None = None
    value: Any = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == ("value" not in self.model_fields_set):
            raise ValueError("an answer has a text or a value")
        return self

    def given(self) -> dict[str, Any]:
        """Return the members that were given."""
        return self.model_dump(exclude_unset=True)


class ResumeRequest(_Strict):
    """What a client sends to resume a run: decisions about all calls, and answers to all questions."""

    action_id: str
    decisions: Annotated[list[DecisionInput], Field(max_length=256)] | None = None
    answers: Annotated[list[AnswerInput], Field(max_length=256)] | None = None

    def digest(self) -> str:
        """Return what is equal for requests that decide the same; their order means nothing."""
        decided = sorted((d.model_dump() for d in self.decisions or ()), key=lambda d: d["call_id"])
        answered = sorted((a.given() for a in self.answers or ()), key=lambda a: a["question_id"])
        return digests.of_json([self.action_id, decided, answered])


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a human decided about a call, or answered to a question; what a continuation acts on.

    Attributes:
        id: the call's or question's id.
        type: `approve`, `reject`, `edit` or `respond`; `answer` for a question; `woken`, `event` or
            `timeout` for what no human decided.
        name: the tool; None for a question.
        arguments: what the tool is to be called with: as approved, or as edited.
        text: the answer, or what stands in for the tool's result (`respond`).
        value: the answer, where the question wants JSON.
        reason: why it was rejected.
    """

    id: str
    type: str
    name: str | None = None
    arguments: Mapping[str, Any] | None = None
    text: str | None = None
    value: Any = None
    reason: str | None = None

    @property
    def is_approved(self) -> bool:
        """Whether the tool is to be called, with `arguments`."""
        return self.type in ("approve", "edit")


def parse_request(fields: Mapping[str, Any]) -> ResumeRequest:
    """Build a request from what a caller gave.

    Raises:
        InvalidRequest: it does not fit; says where.
        InputTooLarge: it is larger than what a log entry may hold.
    """
    try:
        request = ResumeRequest.model_validate(jsontext.well_formed(dict(fields)))
    except ValidationError as error:
        raise validation.invalid_request(error) from error
    try:
        data = jsontext.dumps(request.model_dump(exclude_unset=True))
        if len(data) > DECISIONS_LIMIT:
            raise errors.InputTooLarge(what="resume request", size=len(data), limit=DECISIONS_LIMIT)
        jsontext.checked(data)
    except ValueError as error:
        words = f"no JSON that every reader takes (at most {jsontext.DEPTH} levels): {error}"
        raise errors.InvalidRequest(words) from error
    return request


def judge(action: Action, request: ResumeRequest) -> list[dict[str, Any]]:
    """Return the decisions as they are kept, in the action's order, if every one is there and may be.

    Raises:
        UndecidedCall: a call is not decided.
        InvalidDecision: a decision means nothing, or is about nothing the action asks.
        DecisionNotAllowed: the call's policy does not allow it.
        InvalidRequest: both lists are given, and the action has but calls, or but questions.
    """
    if action.wait is not None:
        raise errors.InvalidDecision("The run waits for a time or an event: nobody decides about that.")
    decisions, answers = request.decisions or (), request.answers or ()
    is_mixture = bool(action.calls and action.questions)
    if request.decisions is not None and request.answers is not None and not is_mixture:
        raise errors.InvalidRequest("The action wants decisions or answers, not both.")
    if (answers and not action.questions) or (decisions and not action.calls):
        raise errors.InvalidDecision("Calls want decisions, questions want answers: no more, no less.")
    return [*_decisions(action, decisions), *_answers(action, answers)]


def rejected(action: Action, reason: str) -> list[dict[str, Any]]:
    """Return what is kept when nobody decides in time: every call is rejected, every question unanswered."""
    if action.wait is not None:
        return [{"id": action.wait.wait_id, "type": "woken" if action.wait.is_timed else "timeout"}]
    return [
        *({"id": c.call_id, "type": "reject", "name": c.name, "reason": reason} for c in action.calls),
        *({"id": q.question_id, "type": "reject", "reason": reason} for q in action.questions),
    ]


def decisions_of(resolved: Sequence[Mapping[str, Any]]) -> dict[str, Decision]:
    """Return all decisions of a run by id, from what `resolve` kept of each action. The latest one counts."""
    return {decision["id"]: Decision(**decision) for action in resolved for decision in action["decisions"]}


def _decisions(action: Action, decisions: Sequence[DecisionInput]) -> list[dict[str, Any]]:
    known = {call.call_id for call in action.calls}
    given = {decision.call_id: decision for decision in decisions}
    if len(given) != len(decisions) or not set(given) <= known:
        raise errors.InvalidDecision("Decide each tool call of the action, once, and nothing else.")
    for call in action.calls:
        if call.call_id not in given:
            raise errors.UndecidedCall(call_id=call.call_id)
    return [_decided(call, given[call.call_id]) for call in action.calls]


def _answers(action: Action, given: Sequence[AnswerInput]) -> list[dict[str, Any]]:
    answers = {answer.question_id: answer for answer in given}
    asked = [question.question_id for question in action.questions]
    if len(answers) != len(given) or sorted(answers) != sorted(asked):
        raise errors.InvalidDecision("Answer each question of the action, once, and nothing else.")
    return [_answered(question, answers[question.question_id]) for question in action.questions]


def _answered(question: Question, answer: AnswerInput) -> dict[str, Any]:
    kept = {"id": question.question_id, "type": "answer"}
    if question.wants_json:
        value = _fitting(question, answer)
        return {**kept, "text": value if isinstance(value, str) else _encoded(value), "value": value}
    text = answer.value if answer.text is None else answer.text
    if not isinstance(text, str):
        raise errors.InvalidDecision(f"The answer to question {question.question_id!r} must be a text.")
    if not text.strip():
        raise errors.InvalidDecision(f"The answer to question {question.question_id!r} is empty.")
    return {**kept, "text": text}


def _fitting(question: Question, answer: AnswerInput) -> Any:
    """Return the JSON that an answer is; for a client that knows only texts, the JSON in its text."""
    if answer.text is None:
        return _checked(question, answer.value)
    try:
        decoded = jsontext.loads(answer.text.encode())
    except ValueError:
        return _checked(question, answer.text)
    try:
        return _checked(question, decoded)
    except errors.InvalidDecision:  # a text that looks like JSON may be meant as one
        if question.response_schema is None:
            raise
        return _checked(question, answer.text)


def _checked(question: Question, value: Any) -> Any:
    if question.response_schema is not None:
        try:
            _validate(jsontext.dumps(question.response_schema), value)
        except errors.InvalidInput as error:
            about = f"The answer to {question.question_id!r} does not fit its schema"
            raise errors.InvalidDecision(f"{about}: {error}") from error
    return value


def _encoded(value: Any) -> str:
    return jsontext.dumps(value).decode()


def _decided(call: Call, given: DecisionInput) -> dict[str, Any]:
    if given.type not in DECISIONS:
        raise errors.InvalidDecision(f"{given.type!r} is no decision: {', '.join(DECISIONS)}.")
    if given.type not in call.allowed_decisions:
        allowed = ", ".join(call.allowed_decisions)
        raise errors.DecisionNotAllowed(decision=given.type, call_id=call.call_id, allowed=allowed)
    kept: dict[str, Any] = {"id": call.call_id, "type": given.type, "name": call.name}
    if given.reason is not None:
        kept["reason"] = given.reason
    if given.type != "edit" and given.arguments is not None:
        raise errors.InvalidDecision(f"Only an edit has arguments; {given.type!r} would ignore them.")
    match given.type:
        case "approve":
            kept["arguments"] = call.arguments
        case "edit":
            kept["arguments"] = _edited(call, given.arguments)
        case "respond":
            if not (given.text or "").strip():
                raise errors.InvalidDecision(f"The response to call {call.call_id!r} is empty.")
            kept["text"] = given.text
        case _:
            pass
    return kept


def _edited(call: Call, arguments: Any) -> dict[str, Any]:
    if not isinstance(arguments, dict):
        raise errors.InvalidDecision(f"An edit of call {call.call_id!r} needs an object as its arguments.")
    if call.arguments_schema is not None:
        try:
            _validate(jsontext.dumps(call.arguments_schema), arguments)  # pyright: ignore[reportUnknownArgumentType]
        except errors.InvalidInput as error:
            raise errors.InvalidDecision(f"The edited arguments do not fit the tool: {error}") from error
    return arguments  # pyright: ignore[reportUnknownVariableType] - JSON
