"""Defines a run as users see it: status, reason, request, spec, usage, errors.

Pydantic models with schema versions. The log's entries are in `events`, the content in `contents`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from mainstem_shared import errors
from mainstem_shared.model import schemas
from mainstem_shared.model.callbacks import Callback
from mainstem_shared.model.usage import Usage, decimal_text

RECORD_VERSION: Final = 2
"""Schema version of a run's record and log."""


def _timestamp(value: datetime) -> str:
    utc = value.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


Timestamp = Annotated[
    datetime, PlainSerializer(_timestamp, when_used="json"), WithJsonSchema(schemas.TIMESTAMP)
]
"""RFC 3339 in UTC with milliseconds."""


def at_ms(value: int) -> datetime:
    """Return the time that is `value` milliseconds after the epoch."""
    return datetime.fromtimestamp(value / 1000, tz=UTC)


def rfc3339(value: int) -> str:
    """Return the time that is `value` milliseconds after the epoch, in RFC 3339."""
    return _timestamp(at_ms(value))


def ms_of(text: str) -> int:
    """Parse what `rfc3339` returns."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


class Status(StrEnum):
    """Where a run is. One status never means two things."""

    QUEUED = "queued"
    RUNNING = "running"
    REQUIRES_ACTION = "requires_action"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_terminal(self) -> bool:
        """Whether the run is over, for good."""
        return self in TERMINAL


TERMINAL: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.ABORTED})


class Reason(StrEnum):
    """Why a run ended."""

    COMPLETED = "completed"
    ENGINE_ERROR = "engine_error"
    PROVIDER_ERROR = "provider_error"
    WORKER_LOST = "worker_lost"
    TIMED_OUT = "timed_out"
    APPROVAL_EXPIRED = "approval_expired"
    CONTENT_TOO_LARGE = "content_too_large"
    BUDGET_REACHED = "budget_reached"
    UNKNOWN_ENGINE = "unknown_engine"
    NO_WORKER = "no_worker"
    USER_ABORT = "user_abort"
    REPLACED = "replaced"
    SHUTDOWN = "shutdown"
    THREAD_DELETED = "thread_deleted"

    @property
    def status(self) -> Status:
        """The terminal status that this reason belongs to."""
        if self is Reason.COMPLETED:
            return Status.SUCCEEDED
        return Status.ABORTED if self in _ABORTS else Status.FAILED


_ABORTS: Final = frozenset({Reason.USER_ABORT, Reason.REPLACED, Reason.SHUTDOWN, Reason.THREAD_DELETED})


class WaitingFor(StrEnum):
    """What a queued run waits for: a worker, or its turn on the thread."""

    WORKER = "worker"
    THREAD = "thread"


def _is_none(value: object) -> bool:
    """Tell whether an optional member is left out, so that records and digests stay what they were."""
    return value is None


class ErrorInfo(BaseModel):
    """Why a run failed, in words."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    code: str
    message: str
    status: int | None = Field(default=None, exclude_if=_is_none)
    """The HTTP status that the engine's provider answered with, if that is why."""


IfActive = Literal["reject", "replace", "enqueue"]
OnWorkerLost = Literal["fail", "resume"]
Priority = Literal["interactive", "batch"]
"""Whether somebody waits for a run's answer: classes have weights, with a fair share (docs/fairness.md)."""
PRIORITY_MEMBER: Final = "x-mainstem-priority"
"""The member of an announced input schema that has the engine's class of runs: validators ignore it."""
ThreadId = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
EngineName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$")]
MessageId = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x20\x7f]+$")]
UserId = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]

INPUT_LIMIT: Final = 1024 * 1024
"""Largest run input, in bytes of JSON: a conversation's history fits, a file belongs elsewhere."""
METADATA_LIMIT: Final = 16 * 1024
"""Largest metadata of a run, in bytes of JSON."""


def check_version(version: int) -> None:
    """Take the version of a run's record before the run is changed; reading needs no more than to ignore.

    Raises:
        NewerVersion: this process does not know what it would have to keep.
    """
    if version > RECORD_VERSION:
        raise errors.NewerVersion


class Budget(BaseModel):
    """The most that may be spent: in US dollars, in tokens, or both."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    usd: (
        Annotated[
            Decimal,
            Field(gt=0, le=1_000_000, allow_inf_nan=False),
            PlainSerializer(decimal_text, return_type=str),
        ]
        | None
    ) = None
    tokens: Annotated[int, Field(gt=0, le=10**12)] | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.usd is None and self.tokens is None:
            raise ValueError("give usd, tokens, or both")
        return self


class StartRequest(BaseModel):
    """What a caller asks for when it starts a run on a thread."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    engine: EngineName
    input: dict[str, Any] = Field(default_factory=dict)
    if_active: IfActive = "reject"
    metadata: dict[str, Any] = Field(default_factory=dict)
    max_duration_s: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = None
    on_worker_lost: OnWorkerLost = "fail"
    parent: MessageId | None = Field(
        default=None,
        exclude_if=_is_none,
        description="The message that the run follows: one that a user said is answered again, after one "
        "that a run produced comes what the input says. `root`: none. By default the latest one.",
    )
    message_id: MessageId | None = Field(
        default=None, exclude_if=_is_none, description="The id of the message that the input is."
    )
    budget: Budget | None = Field(
        default=None, exclude_if=_is_none, description="The most that the run's provider calls may cost."
    )
    callback: Callback | None = Field(
        default=None, exclude_if=_is_none, description="Who is told of the run's end."
    )
    priority: Priority | None = Field(
        default=None,
        exclude_if=_is_none,
        description="`batch` if nobody waits for the answer, else `interactive`; by default the engine's.",
    )


class ForkedFrom(BaseModel):
    """Where a copied run was made: what it copies, and when that was.

    Attributes:
        thread_id: the thread that was forked.
        run_id: the run whose answer it has.
        asked_by: the run whose input it has: another one, if the answer was a regeneration.
        created_ms: when that was created.
        answered_ms: when the answer was begun.
        is_answered: whether the answer was copied, too: not if the thread was forked at what a user said.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    thread_id: str
    run_id: str
    asked_by: str
    created_ms: int
    answered_ms: int
    is_answered: bool = True


class Spec(BaseModel):
    """The part of a run's record that never changes after its start."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    v: int = RECORD_VERSION
    run_id: str
    thread_id: str
    user_id: str
    tenant: str
    engine: str
    metadata: dict[str, Any]
    created_ms: int
    max_duration_s: float
    on_worker_lost: OnWorkerLost = "fail"
    trigger: str = "user"
    parent: str | None = Field(default=None, exclude_if=_is_none)
    message_id: str | None = Field(default=None, exclude_if=_is_none)
    traceparent: str | None = Field(default=None, exclude_if=_is_none)
    budget: Budget | None = Field(default=None, exclude_if=_is_none)
    parent_run: str | None = Field(default=None, exclude_if=_is_none)
    """The run that started it as its child."""
    priority: Priority | None = Field(default=None, exclude_if=_is_none)
    """Its class; None: interactive."""
    forked_from: ForkedFrom | None = Field(default=None, exclude_if=_is_none)
    """What it is a copy of."""


class Run(BaseModel):
    """A run as its readers see it: the record, and the content folded up to `cursor`."""

    # Every member is always there, null where it says nothing.
    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True
    )

    run_id: str
    thread_id: str
    user_id: str
    tenant: str = Field(exclude=True)
    status: Status
    reason: Reason | None = None
    waiting_for: WaitingFor | None = None
    engine: str
    created_at: Timestamp
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    text: str = ""
    content: Annotated[list[dict[str, Any]], WithJsonSchema(schemas.CONTENT)] = Field(default_factory=list)
    steps: Annotated[list[dict[str, Any]], WithJsonSchema(schemas.STEPS)] = Field(default_factory=list)
    usage: Usage | None = None
    title: str | None = None
    action: dict[str, Any] | None = None
    inputs: Annotated[list[dict[str, Any]], WithJsonSchema(schemas.INPUTS)] = Field(
        default_factory=list, exclude_if=lambda inputs: not inputs, description="If users said something."
    )
    cursor: str
    epoch: int
    worker: str | None = None
    error: ErrorInfo | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    labels: list[str] | None = Field(
        default=None, exclude_if=_is_none, description="The labels that somebody gave it."
    )
    output: Any = Field(
        default=None, exclude_if=_is_none, description="The engine's structured result, if it has one."
    )
    parent_run: str | None = Field(
        default=None, exclude_if=_is_none, description="The run that started it as its child, if one did."
    )
    priority: Priority | None = Field(
        default=None, exclude_if=_is_none, description="Its class, if its start or its engine named one."
    )
    finish_reason: str | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Why the model stopped, in its provider's word, if it said.",
    )
