"""Guards on what users say: the built-in one, and a deployment's own."""

from __future__ import annotations

from typing import Any

import pytest

from mainstem_shared import errors, guards
from mainstem_shared.guards import Kind, Said
from mainstem_shared.model import actions
from mainstem_shared.settings import Settings
from support.models.specs import spec

SPEC = spec()
NAMES = Settings.model_fields["input_guards"].default


def polite(said: Said) -> str | None:
    """A deployment's own guard."""
    return "mind your language" if "damn" in str(said.value) else None


def broken(said: Said) -> str | None:
    raise RuntimeError("the moderation service is away")


MINE = f"{__name__}.polite, mainstem_shared.guards.plain"


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [
        (Kind.ANSWER, "two\nlines\tand ümläüts 🎉", "passes"),
        (Kind.ANSWER, "bell\x07", "refused"),
        (Kind.REASON, "escape \x1b[2J", "refused"),
        (Kind.RESPONSE, "turned \u202e around", "refused"),
        (Kind.ARGUMENTS, {"a": [{"b": "fine"}]}, "passes"),
        (Kind.ARGUMENTS, {"a": [{"b": "nul\x00"}]}, "refused"),
        (Kind.ARGUMENTS, {"k\x00": 1}, "refused"),
        (Kind.STEERING, "x" * guards.SAID_LIMIT, "refused"),
        (Kind.INPUT, {"binary": "\x00"}, "passes"),
    ],
)
def test_the_built_in_guard_keeps_control_characters_and_files_out(kind: Kind, value: Any, verdict: str):
    """Of everything but run inputs, which belong to their engine's schema."""
    said = Said(kind=kind, value=value, spec=SPEC)
    if verdict == "passes":
        guards.check(NAMES, said)
    else:
        with pytest.raises(errors.InvalidRequest, match=kind):
            guards.check(NAMES, said)


@pytest.mark.parametrize(
    "fields",
    [
        {"decisions": [{"call_id": "a", "type": "reject", "reason": "damn"}]},
        {"decisions": [{"call_id": "a", "type": "respond", "text": "damn"}]},
        {"decisions": [{"call_id": "a", "type": "edit", "arguments": {"x": ["damn"]}}]},
        {"answers": [{"question_id": "q", "text": "damn"}]},
    ],
)
def test_a_deployments_guard_sees_all_that_a_resume_says(fields: dict[str, Any]):
    """Its message reaches the user."""
    request = actions.parse_request({"action_id": "a", **fields})
    with pytest.raises(errors.InvalidRequest, match="mind your language"):
        guards.check_resume(MINE, request, SPEC)
    guards.check_resume(NAMES, request, SPEC)


def test_a_guard_that_fails_lets_nothing_pass():
    """Its failure is the caller's failure."""
    with pytest.raises(RuntimeError):
        guards.check(f"{__name__}.broken", Said(kind=Kind.INPUT, value={}, spec=SPEC))


@pytest.mark.parametrize("name", ["nosuch.module.f", f"{__name__}.nosuch", "nothing", f"{__name__}.NAMES"])
def test_a_guard_that_is_not_there_is_said_so(name: str):
    """A misspelled guard must not be one that lets everything pass."""
    with pytest.raises(ValueError, match="MAINSTEM_INPUT_GUARDS"):
        guards.load(name)


def test_no_guards_is_a_choice():
    """An empty list lets everything pass."""
    guards.check("", Said(kind=Kind.ANSWER, value="\x00", spec=SPEC))
