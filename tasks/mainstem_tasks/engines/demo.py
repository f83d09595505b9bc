"""The `demo` engine emits numbered words: a reader can prove that it got each of them once, in order.

Its text is part of the external contract: `w0 w1 … w{N-1}`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared.model.actions import DECISIONS, Call, Decision
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine


class DemoInput(BaseModel):
    """What to stream: `tokens` numbered words, or the words of `text`; one every `interval_ms`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 20
    interval_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 50
    text: str | None = None
    fail_at: Annotated[int, Field(ge=0)] | None = None
    approve_at: Annotated[frozenset[int], Field(max_length=1000)] = frozenset()
    """Words before which `demo_tool` asks for approval."""
    ask_at: Annotated[frozenset[int], Field(max_length=1000)] = frozenset()
    """Words before which the user is asked a question, whose answer is inserted."""
    message: str | None = None
    """What the user said, for the thread's history: the words do not depend on it."""
    echo_input: bool = False
    """Insert what users say meanwhile before the next word."""


class DemoError(RuntimeError):
    """The failure that `fail_at` asks for."""


class _State(BaseModel):
    """Where a continuation goes on: word `k`, whether its answer is out, whether any text is."""

    v: int = 1
    k: int
    answered: bool
    begun: bool


@engine("demo", input_model=DemoInput, checkpoints=True)
async def demo(run: RunContext) -> None:
    """Stream the words."""
    await _Demo(run).stream()


class _Demo:
    def __init__(self, run: RunContext) -> None:
        self.run = run
        self.wanted: DemoInput = run.input
        self.from_ = _State(k=0, answered=False, begun=False)
        if run.state is not None:
            self.from_ = _State.model_validate_json(run.state)
        self.begun = self.from_.begun

    async def stream(self) -> None:
        wanted, first, time = self.wanted, self.from_.k, asyncio.get_running_loop().time
        interval_s, echo, fails = wanted.interval_ms / 1000, wanted.echo_input, wanted.fail_at
        special = wanted.approve_at | wanted.ask_at
        start = time() - first * interval_s
        for k, word in itertools.islice(enumerate(words(wanted)), first, None):
            if k == fails:
                raise DemoError(f"asked to fail before word {k}")
            if interval_s and k > first:
                # Against the schedule, not after the last word: delays do not add up.
                await asyncio.sleep(start + k * interval_s - time())
            if k in special or echo or k == first:
                await self._with_others(k, word)
            else:
                await self.run.text(word)  # as straight as can be: load tests are made of it

    async def _with_others(self, k: int, word: str) -> None:
        """Stream word `k` after everything that stands before it, or what a human has in its place."""
        wanted = self.wanted
        while wanted.echo_input and not self.run.inbox.empty():
            await self._insert(self.run.inbox.get_nowait())
        if k in wanted.ask_at and not self._is_answered(k):
            await self._insert(await self._answer(k))
        if k in wanted.approve_at:
            await self._approved(k, word)
        else:
            await self._emit(word)

    async def _emit(self, word: str) -> None:
        if self.begun and not word[:1].isspace():
            word = f" {word}"  # the first word, after an answer
        self.begun = True
        await self.run.text(word)

    async def _insert(self, piece: str) -> None:
        await self._emit(f" {piece}" if self.begun else piece)

    def _is_answered(self, k: int) -> bool:
        return k == self.from_.k and self.from_.answered

    async def _answer(self, k: int) -> str:
        """Return the user's answer; ask for it first if this segment does not know it."""
        question_id = f"ask_{k}"
        decision = self.run.decisions.get(question_id)
        if decision is None:
            question = {"question_id": question_id, "text": f"What shall stand before word {k}?"}
            await self.run.ask([question], state=self._state(k, answered=False))
        return decision.text or f"[{decision.type}ed:{k}]"

    async def _approved(self, k: int, word: str) -> None:
        """Call `demo_tool`, as a human decides; what comes of it stands in the word's place."""
        call_id = f"demo_tool_{k}"
        decision = self.run.decisions.get(call_id)
        if decision is None:
            await self.run.tool_call(call_id, TOOL, {"at": k})
            await self.run.request_approval([_call(call_id, k)], state=self._state(k, answered=True))
        if decision.type == "edit":
            await self.run.tool_call(call_id, TOOL, decision.arguments or {})
        result, piece = _outcome(decision, k, word)
        await self.run.tool_result(call_id, result, failed=decision.type == "reject")
        await (self._emit(piece) if piece is word else self._insert(piece))

    def _state(self, k: int, *, answered: bool) -> bytes:
        return _State(k=k, answered=answered, begun=self.begun).model_dump_json().encode()


TOOL: Final = "demo_tool"
_TOOL_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"at": {"type": "integer", "minimum": 0}},
    "required": ["at"],
    "additionalProperties": False,
}


def _call(call_id: str, k: int) -> Call:
    return Call(
        call_id=call_id,
        name=TOOL,
        arguments={"at": k},
        allowed_decisions=DECISIONS,
        arguments_schema=_TOOL_SCHEMA,
    )


def _outcome(decision: Decision, k: int, word: str) -> tuple[Any, str]:
    """Return the tool's result, and the piece of text that a decision puts in the place of word `k`."""
    match decision.type:
        case "approve":
            return {"word": word.strip()}, word
        case "edit":
            piece = f"w{(decision.arguments or {})['at']}"
            return {"word": piece}, piece
        case "respond":
            return {"response": decision.text}, decision.text or ""
        case _:
            return {"rejected": decision.reason}, f"[rejected:{k}]"


def words(wanted: DemoInput) -> Iterator[str]:
    """Yield the pieces that are streamed; joined, they are the exact text."""
    if wanted.text is not None:
        # Each word with the white space before it; what follows the last word belongs to it.
        yield from re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", wanted.text)
        return
    for k in range(wanted.tokens):
        yield f" w{k}" if k else "w0"
