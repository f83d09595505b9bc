"""Builds the pending action of a pause from the engine's items: approvals, questions and data. Pure.

Engines give items; `action_of` turns them into the action that the run's record has. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared.model import transcripts
from mainstem_shared.model.actions import (
    DEFAULT_DECISIONS,
    QUESTIONS_LIMIT,
    Action,
    Call,
    DecisionType,
    OnExpiry,
    Question,
)

SHOWN_OF_DATA: Final = 2000
"""Characters of data that stand in for a question's text, for clients that know only texts."""


class Item(BaseModel):
    """One thing that a run asks people about.

    Attributes:
        id: what its decision is found by, in `run.decisions`.
        type: `approval` of a tool call, a `question`, or `data` to look at and to answer with JSON.
        value: of an approval, `name` and `arguments` of the call; of a question, its text, or `text` and
            `options`; of data, anything that JSON can hold.
        response_schema: the JSON Schema of an answer; of an approval, of edited arguments.
        allowed_decisions: about an approval; by default approve, reject and edit.
        reason: why it is asked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["approval", "question", "data"]
    value: Any = None
    response_schema: dict[str, Any] | None = None
    allowed_decisions: tuple[DecisionType, ...] | None = None
    reason: str | None = None

    def call(self) -> Call:
        """Return an approval as the call that it is about.

        Raises:
            ValueError: its value is no call.
        """
        if not isinstance(self.value, Mapping):
            raise ValueError(f"item {self.id!r}: the value of an approval has 'name' and 'arguments'")  # noqa: TRY004
        about = dict(cast("Mapping[str, Any]", self.value))
        decisions = self.allowed_decisions or DEFAULT_DECISIONS
        return Call.model_validate(
            {
                **about,
                "call_id": self.id,
                "allowed_decisions": decisions,
                "reason": self.reason,
                "arguments_schema": self.response_schema,
            }
        )

    def question(self) -> Question:
        """Return a question, or data, as the question that stands in the action.

        Raises:
            ValueError: its value is no question.
        """
        about: dict[str, Any] = {"question_id": self.id, "response_schema": self.response_schema}
        if self.type == "data":
            shown = self.reason or transcripts.json_text(self.value)[:SHOWN_OF_DATA] or "?"
            return Question.model_validate({**about, "type": "data", "text": shown, "value": self.value})
        asked = {"text": self.value} if isinstance(self.value, str) else self.value
        if not isinstance(asked, Mapping):
            raise ValueError(f"item {self.id!r}: the value of a question is its text, or has 'text'")  # noqa: TRY004
        return Question.model_validate({**about, **dict(asked)})  # pyright: ignore[reportUnknownArgumentType]


def action_of(
    items: Iterable[Item | Mapping[str, Any]], *, action_id: str, expires_ms: int, on_expiry: OnExpiry
) -> Action:
    """Return the action that asks about all items.

    Raises:
        ValueError: an item does not fit, two have the same id, or there is none.
    """
    given = [item if isinstance(item, Item) else Item.model_validate(item) for item in items]
    calls = tuple(item.call() for item in given if item.type == "approval")
    questions = tuple(item.question() for item in given if item.type != "approval")
    is_mixed = bool(calls and questions) or len(questions) > QUESTIONS_LIMIT
    return Action(
        action_id=action_id,
        kind="interrupt" if is_mixed else "tool_approval" if calls else "question",
        calls=calls,
        questions=questions,
        expires_ms=expires_ms,
        on_expiry=on_expiry,
    )
