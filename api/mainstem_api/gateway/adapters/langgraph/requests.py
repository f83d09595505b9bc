"""Parses requests of the platform API's clients; unsupported members are refused by name. Pure."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mainstem_api.gateway.adapters.langgraph.stream import MODES
from mainstem_shared import errors
from mainstem_shared.model import runs

_REFUSED: Final = (
    "after_seconds", "checkpoint", "checkpoint_id", "feedback_keys", "interrupt_after", "interrupt_before",
    "stream_subgraphs", "webhook",
)  # fmt: skip
_IF_ACTIVE: Final[dict[str, runs.IfActive]] = {
    "reject": "reject",
    "enqueue": "enqueue",
    "interrupt": "replace",
    "rollback": "replace",
}


class CreateThread(BaseModel):
    """A request for a thread, which is only named: nothing is stored before its first run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    thread_id: runs.ThreadId | None = None


class Search(BaseModel):
    """A query of assistants, threads or states."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(10, ge=1, le=200)
    offset: int = Field(0, ge=0)


class Command(BaseModel):
    """What goes on with a graph that was interrupted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resume: Any = None
    update: Any = None
    goto: Any = None


class CreateRun(BaseModel):
    """A request for a run."""

    model_config = ConfigDict(extra="allow", frozen=True)

    assistant_id: runs.EngineName
    input: dict[str, Any] | None = None
    command: Command | None = None
    metadata: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    stream_mode: str | list[str] = Field(default_factory=lambda: ["values"])
    multitask_strategy: Literal["reject", "enqueue", "interrupt", "rollback"] = "enqueue"
    on_disconnect: Literal["continue", "cancel"] | None = None
    stream_resumable: bool | None = None

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            InvalidRequest: `path` names the member.
        """
        for name in _REFUSED:
            if (self.model_extra or {}).get(name):
                raise errors.InvalidRequest(f"{name}: is not served here.", path=name)
        if self.on_disconnect == "cancel":
            raise errors.InvalidRequest("on_disconnect: a run outlives its readers.", path="on_disconnect")
        if self.command is not None and (self.command.update is not None or self.command.goto is not None):
            raise errors.InvalidRequest("command: only resume.", path="command")
        for mode in self.modes:
            if mode not in MODES:
                known = ", ".join(sorted(MODES))
                raise errors.InvalidRequest(f"stream_mode: {mode!r} is none of {known}.", path="stream_mode")

    @property
    def modes(self) -> list[str]:
        """How the client wants to follow."""
        return [self.stream_mode] if isinstance(self.stream_mode, str) else self.stream_mode

    @property
    def if_active(self) -> runs.IfActive:
        """What happens to a run at work."""
        return _IF_ACTIVE[self.multitask_strategy]
