"""A pause ends an engine's segment with an action that a human decides.

`request_approval` and `ask` never return: they raise `Paused`, which ends the engine's function. Once a human
has decided, the function is entered again, in a new task on any worker, with `run.state` and `run.decisions`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mainstem_shared import errors
from mainstem_shared.model import ids, interrupts, jsontext
from mainstem_shared.model.actions import (
    ACTION_LIMIT,
    CHECKPOINT_LIMIT,
    Action,
    Call,
    OnExpiry,
    Question,
    Wait,
)
from mainstem_shared.model.interrupts import Item
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import LONGEST_S


class Paused(BaseException):
    """Ends the engine's function because the run waits for a human. Let it propagate, like a cancellation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What a run waits for, and the state its continuation starts from (None: the last checkpoint)."""

    action: Action
    state: bytes | None


def pause_for_approval(
    calls: Iterable[Call | Mapping[str, Any]], *, state: bytes | None, window_s: float, on_expiry: OnExpiry
) -> Pause:
    """Return the pause in which a human decides about tool calls.

    Raises:
        ValueError: a call does not fit or nests too deeply, or two have the same id.
        EventTooLarge, CheckpointTooLarge: the calls or the state are.
    """
    asked = tuple(call if isinstance(call, Call) else Call.model_validate(call) for call in calls)
    action = Action(
        action_id=_new_id(),
        kind="tool_approval",
        calls=asked,
        expires_ms=_expiry(window_s),
        on_expiry=on_expiry,
    )
    return Pause(action=_checked(action), state=checked_state(state))


def pause_for_answers(
    questions: Iterable[Question | Mapping[str, Any] | str],
    *,
    state: bytes | None,
    window_s: float,
    on_expiry: OnExpiry,
) -> Pause:
    """Return the pause in which a human answers one to four questions; a text is a question without options.

    Raises:
        ValueError: a question does not fit, or two have the same id.
        EventTooLarge, CheckpointTooLarge: the questions or the state are.
    """
    asked = tuple(_question(number, question) for number, question in enumerate(questions, 1))
    action = Action(
        action_id=_new_id(),
        kind="question",
        questions=asked,
        expires_ms=_expiry(window_s),
        on_expiry=on_expiry,
    )
    return Pause(action=_checked(action), state=checked_state(state))


def pause_for(
    items: Iterable[Item | Mapping[str, Any]], *, state: bytes | None, window_s: float, on_expiry: OnExpiry
) -> Pause:
    """Return the pause in which humans decide about items.

    Raises:
        ValueError: an item does not fit or nests too deeply, two have the same id, or there is none.
        EventTooLarge, CheckpointTooLarge: the items or the state are.
    """
    action = interrupts.action_of(
        items, action_id=_new_id(), expires_ms=_expiry(window_s), on_expiry=on_expiry
    )
    return Pause(action=_checked(action), state=checked_state(state))


def pause_to_wait(wait: Wait, *, state: bytes | None, until_ms: int) -> Pause:
    """Return the pause in which a run waits for a time, or for an event until then.

    Raises:
        ValueError: the key of the event does not fit.
        CheckpointTooLarge: the state is.
    """
    action = Action(
        action_id=_new_id(),
        kind="sleep" if wait.is_timed else "children" if wait.runs else "event",
        wait=wait,
        expires_ms=until_ms,
        on_expiry="reject",
    )
    return Pause(action=_checked(action), state=checked_state(state))


def is_only_a_pause(failure: BaseException | None) -> bool:
    """Tell whether an engine ended with nothing but a pause: by itself, or out of its task groups."""
    if isinstance(failure, BaseExceptionGroup):
        return failure.split(Paused)[1] is None
    return isinstance(failure, Paused)


def checked_state(state: bytes | None) -> bytes | None:
    """Return an engine's state if a checkpoint may be so large.

    Raises:
        CheckpointTooLarge: it may not.
    """
    if state is not None and len(state) > CHECKPOINT_LIMIT:
        raise errors.CheckpointTooLarge(size=len(state), limit=CHECKPOINT_LIMIT)
    return None if state is None else bytes(state)


def _question(number: int, question: Question | Mapping[str, Any] | str) -> Question:
    if isinstance(question, str):
        return Question(question_id=f"q{number}", text=question)
    return question if isinstance(question, Question) else Question.model_validate(question)


def _checked(action: Action) -> Action:
    data = jsontext.dumps(action.model_dump(mode="json"))
    if len(data) > ACTION_LIMIT:
        raise errors.EventTooLarge(size=len(data), limit=ACTION_LIMIT)
    jsontext.checked(data)  # it goes into the record, the content and every continuation's decisions
    return action


def _new_id() -> str:
    return f"act_{ids.token()}"


def milliseconds(seconds: float) -> int:
    """Return how long a run may wait, in milliseconds; a negative number is no time.

    Raises:
        ValueError: it is no number, or more than LONGEST_S.
    """
    if not seconds <= LONGEST_S:  # NaN is not, either
        raise ValueError(f"a run waits {LONGEST_S} seconds at most, not {seconds}")
    return int(max(0, seconds) * 1000)


def _expiry(window_s: float) -> int:
    return now_ms() + milliseconds(window_s)
