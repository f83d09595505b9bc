"""Mutants of the shipped scripts, one guard broken each; and the same places, watched, to count what is reached.

A *guard* is the condition of an `if`, an `elseif` or a `while`, and each operand of one that joins several, and each
operand of a value that chooses (`a and b or c`, a `return` of a comparison). It is replaced by `true` or by `false`:
the guard is gone, or nobody passes. Places are found in the source by a small reader of Lua, not by its layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from model.scripts import SHIPPED

PRELUDE: Final = "_prelude"
_LUA: Final = resources.files("mainstem_shared.transitions") / "lua"
_COMMENT: Final = re.compile(r"--\[\[.*?--\]\]|--[^\n]*", re.DOTALL)
_STRING: Final = re.compile(r"'(?:[^'\\\n]|\\.)*'")
_HEAD: Final = re.compile(r"\b(?P<word>if|elseif|while)\b(?P<condition>.+?)\b(?:then|do)\b", re.DOTALL)
_RETURN: Final = re.compile(r"\breturn (?P<value>(?=[^\n]*(?:[=~<>]=|[<>]|\band\b))[^\n{]+)$", re.MULTILINE)
_BEGINS: Final = re.compile(r"\breturn |(?<![=~<>])=(?!=)|\.\.|,|\n")
"""What an expression is the rest of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One condition of a script, or of the prelude that all share, by where it stands in its file."""

    script: str
    line: int
    start: int
    end: int
    text: str
    is_branch: bool
    """Whether it is a whole condition, of which both outcomes are counted."""
    number: int = 1
    """Which one of its file's guards that read the same."""

    @property
    def name(self) -> str:
        return f"{self.script}:{self.line} `{self.text}`"

    @property
    def key(self) -> str:
        """Its text, with its number unless it is the first that reads so: lines may move."""
        return self.text if self.number == 1 else f"{self.text} #{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A guard, replaced by a constant."""

    guard: Guard
    value: str

    @property
    def name(self) -> str:
        return f"{self.guard.name} → {self.value}"

    @property
    def scripts(self) -> tuple[str, ...]:
        """The verbs that it breaks."""
        return tuple(SHIPPED) if self.guard.script == PRELUDE else (self.guard.script,)

    def source(self) -> str:
        """The file, this guard changed."""
        text, guard = file_of(self.guard.script), self.guard
        return f"{text[: guard.start]} {self.value} {text[guard.end :]}"

    def sources(self) -> dict[str, str]:
        """All scripts, this one changed."""
        return {
            **SHIPPED,
            **{name: assembled(name, **{self.guard.script: self.source()}) for name in self.scripts},
        }


@cache
def file_of(script: str) -> str:
    """A script's own file, without the prelude."""
    return (_LUA / f"{script}.lua").read_text("utf-8")


def assembled(script: str, **changed: str) -> str:
    """A verb's source as it is shipped, some files changed."""
    shebang, _, body = changed.get(script, file_of(script)).partition("\n")
    return f"{shebang}\n{changed.get(PRELUDE, file_of(PRELUDE))}{body}"


@cache
def guards(script: str) -> tuple[Guard, ...]:
    """All guards of a file, in their order; a whole condition before its operands."""
    text = file_of(script)
    blank = _blanked(text)
    found: dict[tuple[int, int], bool] = {}
    for head in _HEAD.finditer(blank):
        whole = _stripped(blank, *head.span("condition"))
        found[whole] = True
        operands = list(_operands(blank, *whole))
        if len(operands) > 1:  # else it is the condition, or the contrary of it
            found.update({operand: False for operand in operands if operand not in found})
    taken = [head.span() for head in _HEAD.finditer(blank)]
    values = (*_chosen_by(blank), *(match.span("value") for match in _RETURN.finditer(blank)))
    for start, end in (_stripped(blank, *value) for value in values):
        if not any(first <= start < last for first, last in taken):
            for operand in _operands(blank, start, end):
                found.setdefault(operand, False)
    places = sorted(found.items(), key=lambda item: (item[0][0], -item[0][1]))
    texts = [" ".join(text[start:end].split()) for (start, end), _ in places]
    return tuple(
        Guard(
            script=script,
            line=text.count("\n", 0, start) + 1,
            start=start,
            end=end,
            text=texts[place],
            is_branch=is_branch,
            number=texts[: place + 1].count(texts[place]),
        )
        for place, ((start, end), is_branch) in enumerate(places)
    )


def _blanked(text: str) -> str:
    """Blank what is no code: comments first, which may hold apostrophes, then what strings say."""
    code = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return _STRING.sub(lambda match: f"'{'_' * (len(match[0]) - 2)}'", code)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _split(text: str, start: int, end: int, word: str) -> list[tuple[int, int]]:
    """Where the operands of `word` at the top level stand; all of it, if there is none."""
    parts, depth, begin = list[tuple[int, int]](), 0, start
    for match in re.finditer(rf"[(\[{{]|[)\]}}]|\b{word}\b", text[start:end]):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(_stripped(text, begin, start + match.start()))
            begin = start + match.end()
    return [*parts, _stripped(text, begin, end)]


def _operands(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The comparisons that a condition is made of, at any depth."""
    for word in ("or", "and"):
        parts = _split(text, start, end, word)
        if len(parts) > 1:
            for part in parts:
                yield from _operands(text, *part)
            return
    if text[start:end].startswith("not "):
        start, end = _stripped(text, start + 4, end)
    if text[start] == "(" and _closes(text, start, end) == end - 1:
        yield from _operands(text, *_stripped(text, start + 1, end - 1))
        return
    yield start, end


def _closes(text: str, start: int, end: int) -> int:
    depth = 0
    for place in range(start, end):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return -1


def _chosen_by(text: str) -> Iterator[tuple[int, int]]:
    """What stands before each `and` of a value: it decides which value that is."""
    for word in re.finditer(r"\band\b", text):
        start, depth = word.start(), 0
        while start > 0 and depth >= 0:
            start -= 1
            depth += (text[start] in ")]}") - (text[start] in "([{")
            if depth == 0 and (begins := _BEGINS.match(text, start)):
                start = begins.end() - 1
                break
        yield start + 1, word.start()


def mutants() -> list[Mutant]:
    """Two of each guard of each script, and of what all share."""
    return [
        Mutant(guard=guard, value=value)
        for script in (PRELUDE, *sorted(SHIPPED))
        for guard in guards(script)
        for value in ("false", "true")
        if guard.text != value
    ]


def watched() -> Mapping[str, str]:
    """All scripts, each branch calling `at_branch(place, outcome)`, which answers the outcome."""
    files: dict[str, str] = {}
    for script in (PRELUDE, *SHIPPED):
        text = file_of(script)
        for guard in reversed(
            [guard for guard in guards(script) if guard.is_branch and guard.text != "true"]
        ):
            condition = text[guard.start : guard.end]
            text = f"{text[: guard.start]}at_branch('{script}:{guard.start}', {condition}){text[guard.end :]}"
        files[script] = text
    return {script: assembled(script, **files) for script in SHIPPED}
