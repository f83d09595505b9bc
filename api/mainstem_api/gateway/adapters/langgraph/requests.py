"""Parses requests of the platform API's clients; unsupported members are refused by name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mainstem_api.gateway.adapters.langgraph.stream import MODES
from mainstem_shared import errors
from mainstem_shared.model import callbacks, jsontext, runs
from mainstem_shared.model.callbacks import EventType

_REFUSED: Final = (
    "after_seconds", "feedback_keys", "interrupt_after", "interrupt_before", "stream_subgraphs",
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
    metadata: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what could not be kept.

        Raises:
            InvalidRequest: `path` names the member.
        """
        if self.metadata:
            message = "metadata: a thread has some once it has a run: update it then."
            raise errors.InvalidRequest(message, path="metadata")


class UpdateThread(BaseModel):
    """A change of what is said about a thread: what is absent stays."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    metadata: dict[str, Any] = Field(default_factory=dict)


class SearchThreads(BaseModel):
    """A query of the caller's threads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(10, ge=1, le=100)
    offset: int = Field(0, ge=0, le=1000)
    metadata: dict[str, Any] | None = None
    status: Literal["idle", "busy", "interrupted", "error"] | None = None
    ids: list[str] | None = None
    values: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            InvalidRequest: `path` names the member.
        """
        if self.values:
            raise errors.InvalidRequest("values: threads are not searched by their state.", path="values")

    def takes(self, thread: Mapping[str, Any]) -> bool:
        """Tell whether a thread is one of those."""
        said: Mapping[str, Any] = thread["metadata"]
        fits = all(said.get(name) == value for name, value in (self.metadata or {}).items())
        return (
            fits
            and self.status in (None, thread["status"])
            and (self.ids is None or thread["thread_id"] in self.ids)
        )


class Search(BaseModel):
    """A query of assistants, threads or states."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(10, ge=1, le=200)
    offset: int = Field(0, ge=0)
    graph_id: str | None = None


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
    webhook: Annotated[str, Field(max_length=2000)] | None = None
    checkpoint: dict[str, Any] | None = None
    checkpoint_id: str | None = None

    def check(self) -> None:
        """Refuse what is not served.

        Raises:
            InvalidRequest: `path` names the member.
        """
        for name in _REFUSED:
            if (self.model_extra or {}).get(name):
                raise errors.InvalidRequest(f"{name}: is not served here.", path=name)
        if self.command is not None and (self.command.update is not None or self.command.goto is not None):
            raise errors.InvalidRequest("command: only resume.", path="command")
        _check_modes(self.modes)

    @property
    def modes(self) -> list[str]:
        """How the client wants to follow."""
        return [self.stream_mode] if isinstance(self.stream_mode, str) else self.stream_mode

    @property
    def follows(self) -> str | None:
        """The last message of the state that the run goes on from; None: of the thread's latest."""
        named = self.checkpoint_id or (self.checkpoint or {}).get("checkpoint_id")
        return None if named is None else str(named)

    @property
    def cancels(self) -> bool:
        """Whether the run is to stop when this client leaves."""
        return self.on_disconnect == "cancel"

    @property
    def callback(self) -> dict[str, Any] | None:
        """Who is told of the run's end, or that it was interrupted, which ends a run there."""
        if self.webhook is None:
            return None
        return {"url": f"{callbacks.LANGGRAPH}{self.webhook}", "events": [EventType.REQUIRES_ACTION]}

    @property
    def if_active(self) -> runs.IfActive:
        """What happens to a run at work."""
        return _IF_ACTIVE[self.multitask_strategy]


def modes_of_query(given: Sequence[str] | None) -> list[str]:
    """Return the modes that a query names: repeated, or as one JSON list, as the clients of npm have them.

    Raises:
        InvalidRequest: a mode is none that is served.
    """
    modes: list[str] = []
    for text in given or ():
        if text.startswith("["):
            try:
                modes += [str(mode) for mode in jsontext.loads(text)]
            except ValueError:
                modes.append(text)  # which is none
        elif text:  # the SDK of PyPI sends an empty one for none
            modes.append(text)
    _check_modes(modes)
    return modes


def _check_modes(modes: Sequence[str]) -> None:
    for mode in modes:
        if mode not in MODES:
            known = ", ".join(sorted(MODES))
            raise errors.InvalidRequest(f"stream_mode: {mode[:40]!r} is none of {known}.", path="stream_mode")
