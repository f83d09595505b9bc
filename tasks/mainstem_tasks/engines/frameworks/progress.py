"""A run's progress is what its continuation starts from, on any worker.

That is the framework's state, and the calls that wait for a result.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.sdk.context import RunContext


class Progress(BaseModel):
    """What is saved with a checkpoint or a pause. `waits`: a human was asked, and has decided by then."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    state: Any = None
    waits: bool = False
    opened: dict[str, str] = Field(default_factory=dict)
    used: list[str] = Field(default_factory=list[str])

    @classmethod
    def of(cls, calls: ToolCalls, state: Any, *, waits: bool = False) -> Progress:
        """Return the progress at this point."""
        return cls(state=state, waits=waits, opened=calls.opened, used=calls.used)

    @classmethod
    def before(cls, run: RunContext[Any]) -> Progress | None:
        """Return where an earlier segment of the run stopped; None at the start."""
        return None if run.state is None else cls.model_validate_json(run.state)

    def encoded(self) -> bytes:
        """Return it as `before` reads it."""
        return self.model_dump_json().encode()
