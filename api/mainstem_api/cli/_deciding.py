"""Reads decisions about a paused run from a command's options, or asks at the terminal.

What may be decided, and what fits a tool, is the gateway's to judge. For `mainstem resume`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer

from mainstem_api.cli._display import printable
from mainstem_api.cli._options import json_object

_LETTERS: Final = {"a": "approve", "r": "reject", "e": "edit", "p": "respond"}
_LABELS: Final = {"approve": "[a]pprove", "reject": "[r]eject", "edit": "[e]dit", "respond": "res[p]ond"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a command's options decide, by call or question."""

    approve: Sequence[str] = ()
    reject: Sequence[str] = ()
    edit: Sequence[str] = ()
    respond: Sequence[str] = ()
    answer: Sequence[str] = ()
    rest: str | None = None
    """`approve` or `reject` for all calls that are not named."""
    reason: str | None = None

    @property
    def says_anything(self) -> bool:
        return bool(self.approve or self.reject or self.edit or self.respond or self.answer or self.rest)

    def decisions(self, calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a decision for each call that is named, and for all of `calls` if there is a rest.

        Raises:
            typer.BadParameter: one is decided twice, or an edit is no object.
        """
        decided: dict[str, dict[str, Any]] = {}

        def decide(call_id: str, kind: str, **more: Any) -> None:
            if call_id in decided:
                raise typer.BadParameter(f"call {call_id!r} is decided twice.")
            decided[call_id] = {"call_id": call_id, "type": kind, **more}

        rejected = {} if self.reason is None else {"reason": self.reason}
        for call_id in self.approve:
            decide(call_id, "approve")
        for call_id in self.reject:
            decide(call_id, "reject", **rejected)
        for call_id, text in _pairs(self.edit, "--edit"):
            decide(call_id, "edit", arguments=json_object(text, "--edit"))
        for call_id, text in _pairs(self.respond, "--respond"):
            decide(call_id, "respond", text=text)
        for call in calls:
            if self.rest is not None and call["call_id"] not in decided:
                decide(call["call_id"], self.rest, **(rejected if self.rest == "reject" else {}))
        return list(decided.values())

    def answers(self) -> list[dict[str, Any]]:
        """Return the answers.

        Raises:
            typer.BadParameter: one has no question.
        """
        return [
            {"question_id": question_id, "text": text}
            for question_id, text in _pairs(self.answer, "--answer")
        ]

    def body(self, action: dict[str, Any] | None, action_id: str) -> dict[str, Any]:
        """Return what resumes a run; `action` is what it waits for now, if that is this action.

        Raises:
            typer.BadParameter: the options do not fit together, or name what the action does not ask.
        """
        calls, questions = (action or {}).get("calls") or [], (action or {}).get("questions") or []
        decisions, answers = self.decisions(calls), self.answers()
        if decisions and answers and action is not None and action["kind"] != "interrupt":
            raise typer.BadParameter("this run waits for decisions or for answers, not for both.")
        if action is not None:
            _check_known([d["call_id"] for d in decisions], [c["call_id"] for c in calls], "tool call")
            _check_known(
                [a["question_id"] for a in answers], [q["question_id"] for q in questions], "question"
            )
        both = {"decisions": decisions, "answers": answers}
        given = {name: said for name, said in both.items() if said} or {"decisions": []}
        return {"action_id": action_id, **given}


def _pairs(options: Sequence[str], name: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise typer.BadParameter(f"{option!r} lacks the value: ID=VALUE is wanted.", param_hint=name)
        pairs.append((key, value))
    return pairs


def _check_known(named: list[str], asked: list[str], what: str) -> None:
    unknown = [name for name in named if name not in asked]
    if unknown:
        known = ", ".join(map(repr, asked)) or "none"
        raise typer.BadParameter(f"the run asks about no {what} {unknown[0]!r}; it asks about: {known}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Asks a person at a terminal about everything that an action asks."""

    say: Callable[[str], None]
    prompt: Callable[[str], str]

    def body(self, action: dict[str, Any]) -> dict[str, Any]:
        """Return what resumes the run."""
        asked: dict[str, Any] = {"action_id": action["action_id"]}
        if calls := action.get("calls"):
            asked["decisions"] = [self._decision(c, n, len(calls)) for n, c in enumerate(calls, 1)]
        if questions := action.get("questions"):
            asked["answers"] = [self._answer(q, n, len(questions)) for n, q in enumerate(questions, 1)]
        return asked

    def _decision(self, call: dict[str, Any], number: int, of: int) -> dict[str, Any]:
        self.say(f"\nTool call {number} of {of}: {call['name']}  ({call['call_id']})")
        self.say(json.dumps(call["arguments"], indent=2, ensure_ascii=False))
        if call.get("reason"):
            self.say(f"Asked because: {call['reason']}")
        allowed: list[str] = call["allowed_decisions"]
        choices = {letter: kind for letter, kind in _LETTERS.items() if kind in allowed}
        choices |= {kind: kind for kind in allowed}
        kind = self._choose(
            ", ".join(_LABELS[kind] for kind in _LETTERS.values() if kind in allowed), choices
        )
        return {"call_id": call["call_id"], "type": kind, **self._details(kind)}

    def _choose(self, label: str, choices: dict[str, str]) -> str:
        while (kind := choices.get(self.prompt(f"{label}? ").strip().lower())) is None:
            self.say(f"Please type one of: {', '.join(choices)}.")
        return kind

    def _details(self, kind: str) -> dict[str, Any]:
        match kind:
            case "edit":
                return {"arguments": self._arguments()}
            case "respond":
                return {"text": self._text("Respond in its place: ")}
            case "reject":
                reason = self.prompt("Why (optional)? ").strip()
                return {"reason": reason} if reason else {}
            case _:
                return {}

    def _arguments(self) -> dict[str, Any]:
        while True:
            try:
                value: Any = json.loads(self.prompt("Arguments instead, as a JSON object: "))
            except ValueError as error:
                self.say(f"That is no JSON: {error}")
                continue
            if isinstance(value, dict):
                return value  # pyright: ignore[reportUnknownVariableType] - JSON
            self.say("That is JSON, but no object.")

    def _answer(self, question: dict[str, Any], number: int, of: int) -> dict[str, Any]:
        self.say(f"\nQuestion {number} of {of}: {question['text']}")
        options: list[str] = question.get("options") or []
        for place, option in enumerate(options, 1):
            self.say(f"  {place}) {option}")
        label = "A number, or your own answer: " if options else "Your answer: "
        text = self._text(label)
        chosen = {str(place): option for place, option in enumerate(options, 1)}
        return {"question_id": question["question_id"], "text": chosen.get(text, text)}

    def _text(self, label: str) -> str:
        while not (text := self.prompt(label).strip()):
            self.say("Please say something.")
        return text


def at_terminal() -> Asker:
    """Return an asker for the terminal that this process has; models must not move its cursor."""

    def prompt(label: str) -> str:
        typer.echo(label, nl=False, err=True)
        try:
            return input()
        except EOFError:
            raise typer.Abort from None

    return Asker(say=lambda text: typer.echo(printable(text), err=True), prompt=prompt)
