"""Reads what A2A clients send: JSON-RPC requests, messages, and decisions about a task that waits. Pure."""

# what clients send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from mainstem_api.gateway.adapters.a2a.errors import CONTENT_TYPE, Refused
from mainstem_api.gateway.adapters.engine_input import Options
from mainstem_shared import errors
from mainstem_shared.model import runs
from mainstem_shared.model.callbacks import Receiver


class RpcRequest(BaseModel):
    """A JSON-RPC request."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    jsonrpc: Literal["2.0"]
    id: str | int | None = None
    method: Annotated[str, Field(max_length=80)]
    params: dict[str, Any] | list[Any] = Field(default_factory=dict[str, Any])


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True)


class A2AMessage(_Wire):
    """What a user says: in a context, or to a task that waits."""

    message_id: Annotated[str, Field(min_length=1, max_length=255)]
    context_id: runs.ThreadId | None = None
    task_id: str | None = None
    parts: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]

    @property
    def text(self) -> str:
        """All its texts."""
        return "".join(str(part["text"]) for part in self.parts if "text" in part)

    def content(self) -> str | list[dict[str, Any]]:
        """Return it as the content of a chat message.

        Raises:
            InvalidRequest: a part is of no kind that an engine can be told.
        """
        if all("text" in part for part in self.parts):
            return self.text
        return [_part(at, part) for at, part in enumerate(self.parts)]


MODES: Final = (
    "text/plain", "application/json", "application/pdf", "application/octet-stream", "text/*", "image/*",
    "audio/*", "video/*",
)  # fmt: skip
"""What an agent may be told, as its card says."""


def _is_served(media_type: str) -> bool:
    return media_type in MODES or f"{media_type.partition('/')[0]}/*" in MODES


def _part(at: int, part: Mapping[str, Any]) -> dict[str, Any]:
    media_type = str(part.get("mediaType") or "application/octet-stream")
    url = part.get("url")
    if "text" not in part and not _is_served(media_type.lower()):
        raise Refused(CONTENT_TYPE, f"message.parts[{at}]: no agent here takes {media_type[:80]!r}.")
    if "raw" in part:
        url = f"data:{media_type};base64,{part['raw']}"
    if "text" in part:
        return {"type": "text", "text": str(part["text"])}
    if isinstance(url, str) and media_type.startswith("image"):
        return {"type": "image_url", "image_url": {"url": url}}
    if isinstance(url, str):
        return {"type": "file", "file": {"filename": str(part.get("filename") or "file"), "file_data": url}}
    raise errors.InvalidRequest(f"message.parts[{at}]: text, raw or url.", path=f"message.parts[{at}]")


class Authentication(_Wire):
    """What a receiver of push notifications is to be shown."""

    scheme: str = ""
    credentials: str = ""


class PushConfig(_Wire):
    """Who is to be told of a task."""

    id: str = ""
    task_id: str = ""
    url: str
    token: str = ""
    authentication: Authentication = Field(default_factory=Authentication)

    @property
    def receiver(self) -> Receiver:
        """The same as a callback's target.

        Raises:
            ValidationError: a member is too long.
        """
        shown = self.authentication.model_dump()
        return Receiver(id=self.id, url=self.url, token=self.token, **shown)


class PushQuery(_Wire):
    """The parameters of what is about one receiver."""

    task_id: str
    id: str = ""


class Configuration(_Wire):
    """How a message is to be answered."""

    return_immediately: bool = False
    task_push_notification_config: PushConfig | None = None


class SendMessage(_Wire):
    """The parameters of `SendMessage` and `SendStreamingMessage`. `metadata.mainstem` has our options."""

    message: A2AMessage
    configuration: Configuration = Field(default_factory=Configuration)
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def options(self) -> Options:
        """What the request says about the run's start."""
        return Options.model_validate(self.metadata.get("mainstem") or {})


class TaskQuery(_Wire):
    """The parameters of what is about one task."""

    id: str


class PushListQuery(_Wire):
    """The parameters of `ListTaskPushNotificationConfigs`."""

    task_id: str


State = Literal[
    "TASK_STATE_UNSPECIFIED",
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_REJECTED",
    "TASK_STATE_AUTH_REQUIRED",
]


class ListQuery(_Wire):
    """The parameters of `ListTasks`."""

    context_id: runs.ThreadId | None = None
    status: State | None = None
    include_artifacts: bool = False
    status_timestamp_after: AwareDatetime | None = None
    page_size: Annotated[int, Field(ge=1, le=100)] = 50
    page_token: str = ""

    def takes(self, changed_ms: int) -> bool:
        """Tell whether a task is one of those that changed since."""
        after = self.status_timestamp_after
        return after is None or changed_ms >= round(after.timestamp() * 1000)


def decisions(action: Mapping[str, Any], message: A2AMessage) -> dict[str, Any]:
    """Return what a message decides about the action that a task waits for.

    A text answers every question, and decides every call: `approve`, or anything else to reject it. A data
    part has `decisions` or `answers`, as `POST /v1/runs/{run_id}/resume` takes them.
    """
    for part in message.parts:
        data = part.get("data")
        if isinstance(data, dict) and ("decisions" in data or "answers" in data):
            return {"decisions": data.get("decisions"), "answers": data.get("answers")}
    text = message.text.strip()
    answers = [{"question_id": asked["question_id"], "text": text} for asked in action.get("questions", ())]
    approves = text.casefold() == "approve"
    verdict = {"type": "approve"} if approves else {"type": "reject", "reason": text or None}
    judged = [{"call_id": call["call_id"], **verdict} for call in action.get("calls", ())]
    return {"answers": answers or None, "decisions": judged or None}
