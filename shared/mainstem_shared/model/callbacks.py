"""Defines callbacks: targets, event ids, the schedule of attempts, and the event's payload.

A *target* is a text: the address of a webhook, or the name of a Celery task, `name@queue` if it has a queue
of its own. A webhook whose address begins with `openai+`, `langgraph+` or `a2a+` is told in the shape of
theirs. An event's id is `<run id>.<epoch>`, for an epoch's number never comes twice in a run; each of its
targets has a delivery, `<event id>.<number>`, with attempts of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mainstem_shared.model import jsontext

OPENAI: Final = "openai+"
"""What the address of a webhook begins with that is told as OpenAI tells its own."""
LANGGRAPH: Final = "langgraph+"
"""The same of one that is told as LangGraph's platform tells its own."""
A2A: Final = "a2a+"
"""The same of one that is told as A2A's agents tell; its fragment says how (`Receiver`)."""
TASK_NAME: Final = r"^[A-Za-z_][\w.-]*$"
FIRST_PAUSE_MS: Final = 5_000
LONGEST_PAUSE_MS: Final = 6 * 3_600_000
GIVEN_UP_AFTER_MS: Final = 24 * 3_600_000
"""How long after the event its last attempt may begin."""
KEPT_MS: Final = 8 * 86_400_000
"""How long a delivery is there at most; `_prelude.lua` has the same number."""
PAYLOAD_LIMIT: Final = 256 * 1024
"""Bytes of JSON with which a run is part of what is said; a longer one is left out."""
_DELIVERY: Final = re.compile(r"(.+)\.([0-9]+)\.([0-9]+)")


class EventType(StrEnum):
    """The events of a run that callbacks report."""

    ENDED = "run.ended"
    REQUIRES_ACTION = "run.requires_action"


class Callback(BaseModel):
    """The targets that are called back when a run ends: a Celery task, a webhook, or both."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    task: Annotated[str, Field(max_length=255, pattern=TASK_NAME)] | None = Field(
        default=None, description="A Celery task: one that the operator allows (MAINSTEM_CALLBACK_TASKS)."
    )
    url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None,
        description="A webhook, on a host that the operator allows (MAINSTEM_CALLBACK_HOSTS); with `openai+` "
        "or `langgraph+` before `https`, it is told in the shape of their webhooks.",
    )
    events: list[Literal["run.ended", "run.requires_action"]] = Field(
        default_factory=list[Literal["run.ended", "run.requires_action"]],
        max_length=2,
        description="What else it is told of: `run.requires_action`. Of the end, always.",
    )

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.task is None and self.url is None:
            raise ValueError("give a task, a url, or both")
        return self


class Receiver(BaseModel):
    """Who is told of an A2A task, and what it is shown; as a target, the fragment holds the latter."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    id: Annotated[str, Field(max_length=64)] = ""
    url: Annotated[str, Field(max_length=1024, pattern=r"^[^#]*$")]
    token: Annotated[str, Field(max_length=256)] = ""
    scheme: Annotated[str, Field(max_length=32, pattern=r"^[\w-]*$")] = ""
    credentials: Annotated[str, Field(max_length=512)] = ""

    @property
    def target(self) -> str:
        """The receiver as a callback's target."""
        rest = self.model_dump_json(exclude={"url"}, exclude_defaults=True)
        return f"{A2A}{self.url}#{quote(rest, safe='')}"

    @property
    def headers(self) -> dict[str, str]:
        """What a message to it carries besides its signature."""
        named = {"x-a2a-notification-token": self.token} if self.token else {}
        return named | ({"authorization": f"{self.scheme} {self.credentials}"} if self.scheme else {})


def receiver_of(target: str) -> Receiver | None:
    """Return the receiver that a target is; None if it is another kind, or damaged."""
    if not target.startswith(A2A):
        return None
    url, _, rest = target.removeprefix(A2A).partition("#")
    try:
        return Receiver.model_validate({**jsontext.loads(unquote(rest) or "{}"), "url": url})
    except ValueError:
        return None


def shown(target: str) -> str:
    """Return a target as it may be shown: without what proves to it that we are meant."""
    return target.partition("#")[0] if target.startswith(A2A) else target


@dataclass(frozen=True, slots=True)
class DeliveryId:
    """Identifies a delivery: one event of a run to one target."""

    run_id: str
    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.run_id}.{self.field}"

    @property
    def field(self) -> str:
        """The hash field that holds the delivery's target."""
        return f"{self.epoch}.{self.number}"

    @property
    def attempts_field(self) -> str:
        """The hash field that holds the delivery's attempts."""
        return f"{self.field}:attempts"

    @property
    def event_id(self) -> str:
        """The event's id that receivers see: the same in all attempts."""
        return f"{self.run_id}.{self.epoch}"


def parse_delivery(text: str) -> DeliveryId | None:
    """Parse what `str` of a delivery's id returns; None if it is none."""
    found = _DELIVERY.fullmatch(text)
    return found and DeliveryId(found[1], int(found[2]), int(found[3]))


class Attempts(BaseModel):
    """Counts the attempts of a delivery, and keeps the last one's outcome."""

    count: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    error: str | None = None
    given_up: bool = False


def pause_ms(attempts: int) -> int:
    """Return how long after so many failed attempts the next one follows: 5 s, doubled each time, to 6 h."""
    return int(min(FIRST_PAUSE_MS * 2 ** min(attempts - 1, 20), LONGEST_PAUSE_MS))


def stored(own: Callback | None, own_targets: Sequence[str], everyone: Sequence[str]) -> bytes:
    """Encode the targets of a run's callbacks for its record; nothing if there are none."""
    if not own_targets and not everyone:
        return b""
    pauses = own is not None and EventType.REQUIRES_ACTION in own.events
    return jsontext.dumps({"to": list(own_targets), "all": list(everyone), "pauses": pauses})


def is_webhook(target: str) -> bool:
    """Tell whether a target is an address; else it is a task."""
    return "://" in target


def task_of(target: str) -> tuple[str, str | None]:
    """Return a target's task and the queue that it has of its own, if any."""
    name, _, queue = target.partition("@")
    return name, queue or None


def split(setting: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated setting."""
    return tuple(part for part in (part.strip() for part in setting.split(",")) if part)


def ended_event(record: dict[str, Any]) -> bytes:
    """Return the event of a run's end as `finish` writes it, made from what is known of the run since."""
    return jsontext.dumps({"type": EventType.ENDED, **record})
