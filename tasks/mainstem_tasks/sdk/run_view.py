"""`RunView` is what both kinds of engines, `async def` and plain `def`, can see of their run.

`context` and `sync_context` add what an engine may do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic

from typing_extensions import TypeVar

from mainstem_shared.model import digests, jsontext
from mainstem_shared.model.actions import Decision
from mainstem_shared.settings import Settings

InputT = TypeVar("InputT", default=Any)
"""An engine's input model; a mapping if it declares none."""


class RunView(Generic[InputT]):
    """What both kinds of engines, `async def` and plain `def`, can see of their run. Safe from any thread."""

    def __init__(
        self,
        *,
        run_id: str,
        thread_id: str,
        user_id: str,
        tenant: str,
        input: InputT,  # noqa: A002 - the name engines use
        raw_input: Mapping[str, Any],
        metadata: Mapping[str, Any],
        segment: int,
        state: bytes | None,
        decisions: Mapping[str, Decision] | None,
        settings: Settings,
        stopping: Callable[[], bool],
    ) -> None:
        self.run_id: Final = run_id
        """The run's id."""
        self.thread_id: Final = thread_id
        """The conversation the run belongs to."""
        self.user_id: Final = user_id
        """Whose run it is."""
        self.tenant: Final = tenant
        """The tenant of that user."""
        self.input: Final = input
        """The validated input: the engine's input model, or a mapping if it has none."""
        self.raw_input: Final = raw_input
        """The input as the caller sent it."""
        self.metadata: Final = metadata
        """What the caller attached to the run."""
        self.segment: Final = segment
        """1 at the start, one more with each continuation."""
        self.state: Final = state
        """The last checkpoint of an earlier segment; None at the start."""
        self.decisions: Final[Mapping[str, Decision]] = decisions or {}
        """What humans decided in all pauses so far, by the id of the call or question; empty at the start."""
        self.settings: Final = settings
        """The configuration of this process."""
        self._stopping = stopping

    @property
    def stopping(self) -> bool:
        """Whether the run is being stopped: aborted, over its time, or its worker shuts down.

        `async def` engines are cancelled too; plain ones that compute for long should look here at times.
        """
        return self._stopping()

    def idempotency_key(self, call: str) -> str:
        """Return a key for a side effect that must happen once: the same in every segment of the run.

        Side effects cannot be fenced: give this key to the service that performs them. `call` is the tool
        call's id, or any name that a continuation will use again.
        """
        named = jsontext.dumps([self.run_id, call])
        return f"ms_{digests.hex_digest(named)}"
