"""Derives the ids of approval items from a run's own id, and parses them and those of responses."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.model.openai_responses import ResponseId

_RESPONSE: Final = re.compile(r"resp_(?P<run>[a-z2-7]{16}_[a-z2-7]{26})(?:_(?P<turn>[1-9][0-9]{0,5}))?")
_ASKED: Final = re.compile(
    r"(?P<kind>mcpr|ask)_(?P<run>[a-z2-7]{16}_[a-z2-7]{26})\.(?P<action>[^.]+)\.(?P<id>.+)", re.DOTALL
)

_ITEM: Final = re.compile(r"(?:msg|rs|mcp|fc)_(?:ask_)?(?P<run>[a-z2-7]{16}_[a-z2-7]{26})[_.].+", re.DOTALL)
_SHARED: Final = re.compile(r"(?P<id>.+)@(?P<run>[a-z2-7]{16}_[a-z2-7]{26})", re.DOTALL)


class Asked(NamedTuple):
    """One thing that a paused run waits for: `id` is a tool call's, or a question's."""

    run_id: str
    action_id: str
    id: str
    is_approval: bool


def response(text: str) -> ResponseId:
    """Read a response's id.

    Raises:
        NotFound: it cannot be one.
    """
    found = _RESPONSE.fullmatch(text)
    if found is None:
        raise errors.NotFound(f"Response with id {text[:80]!r} not found.")
    return ResponseId(found["run"], int(found["turn"] or 0))


def approval(run_id: str, action_id: str, call_id: str) -> str:
    """Return the id of the item that asks for a tool call's approval."""
    return f"mcpr_{run_id}.{action_id}.{call_id}"


def question(run_id: str, action_id: str, question_id: str) -> str:
    """Return the call id of the function call that asks a question."""
    return f"ask_{run_id}.{action_id}.{question_id}"


def asked(text: str) -> Asked | None:
    """Parse an id that `approval` or `question` made; None if it is neither."""
    found = _ASKED.fullmatch(text)
    return (
        None if found is None else Asked(found["run"], found["action"], found["id"], found["kind"] == "mcpr")
    )


def run_of_item(text: str) -> str | None:
    """Return the run whose response has an item of this id; None if it can be none of ours."""
    found = _ITEM.fullmatch(text)
    return None if found is None else found["run"]


def shared(run_id: str, call_id: str) -> str:
    """Return the id of a call that is the client's, in a run that called tools here, too."""
    return f"{call_id}@{run_id}"


def parts_of_shared(text: str) -> tuple[str, str] | None:
    """Return the call's own id, and the run, from an id that `shared` made; None of any other."""
    found = _SHARED.fullmatch(text)
    return None if found is None else (found["id"], found["run"])


def short(run_id: str) -> str:
    """Return the part of a run id that makes the ids of its items unique."""
    return ids.split(run_id)[1]
