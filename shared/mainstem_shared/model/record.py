"""Declares every field of a run's record: the hash that is the truth about a run, and its one typed reader.

Lua verbs write the fields; `written_by` and `deleted_by` name them (`tests/unit/test_record.py` compares the
scripts), and `docs/record.md` has the table. Fields keep the names they are stored under since version 1;
attributes say what they mean. A value is parsed when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar, cast

from mainstem_shared.model import jsontext, runs
from mainstem_shared.model.actions import Action
from mainstem_shared.model.fields import Field
from mainstem_shared.model.runs import ErrorInfo, Reason, Spec, Status, WaitingFor

T = TypeVar("T")
MILLISECONDS: Final = "ms since the epoch"
JSON: Final = "JSON"


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")  # a run with a damaged owner or task must be one that can end


def _reason(stored: bytes) -> Reason:
    return Reason(stored.decode())


def _error(stored: bytes) -> ErrorInfo:
    return ErrorInfo.model_validate(jsontext.loads(stored))


def _decisions(stored: bytes) -> list[dict[str, Any]]:
    return jsontext.loads(stored)


def _object(stored: bytes) -> dict[str, Any]:
    return jsontext.loads(stored)


def _same(stored: bytes) -> bytes:
    return stored


class Record:
    """Some fields of one run's record, as they were at one moment.

    Asking for a field that was not read is a mistake of the program: `RuntimeError`.
    """

    # -- what never changes after the start

    spec = Field(
        "spec",
        Spec.model_validate_json,
        meaning="who started what: `model.runs.Spec`",
        unit=JSON,
        written_by="start copy",
    )
    run_input = Field[dict[str, Any]](
        "input", _object, meaning="what the engine is given", unit=JSON, written_by="start copy", large=True
    )
    version = Field(
        "v",
        int,
        default=1,
        written_by="start copy",
        meaning="schema version of record and log; only processes that know it change the run",
    )
    start_nonce = Field(
        "n0",
        _text,
        default="",
        written_by="start copy",
        meaning="nonce of the call that created the run: repeated, it is answered the same",
    )
    behind = Field(
        "behind",
        _text,
        default="",
        written_by="start copy",
        meaning="the run that held the thread at the start; empty if the thread was free",
    )
    if_active = Field[str | None](
        "if_active",
        _text,
        default=None,
        written_by="start",
        deleted_by="finish",
        meaning="what to do on a busy thread: a replacement that waits can be replaced itself",
    )
    callback = Field[dict[str, Any] | None](
        "callback",
        _object,
        default=None,
        unit=JSON,
        written_by="start set_callback",
        meaning="who is told of its end: `to`, whom it named, of `pauses` too if asked; `all`, everyone",
    )
    idempotency_key = Field[str | None](
        "idem",
        _text,
        default=None,
        written_by="start move",
        meaning="the store's key that an Idempotency-Key made: deleted with the run",
    )

    # -- where it is

    status = Field(
        "status",
        lambda stored: Status(stored.decode()),
        meaning="where the run is",
        written_by="start claim handover pause resolve finish copy",
    )
    waiting_for = Field[WaitingFor | None](
        "waiting",
        lambda stored: WaitingFor(stored.decode()),
        default=None,
        written_by="start handover resolve promote finish",
        deleted_by="claim pause finish",
        meaning="what a queued run waits for; `finish` sets it for the run that the thread goes to",
    )
    epoch = Field(
        "epoch",
        int,
        written_by="start claim seal handover pause resolve resync finish copy",
        meaning="fencing token: grows whenever control changes hands",
    )
    nonce = Field(
        "nonce",
        _text,
        default="",
        written_by="claim seal handover pause resolve resync finish copy",
        meaning="nonce of the call that changed control last: its repeats are answered the same, "
        "and who has control proves it by this",
    )
    owner = Field(
        "owner",
        _text,
        default="",
        written_by="claim seal",
        deleted_by="handover pause",
        meaning="incarnation of the process that runs it, or ran it last; empty: nobody's",
    )
    sealed_ms = Field[int | None](
        "sealed",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="seal",
        deleted_by="handover pause finish",
        meaning="when its owner took it from another",
    )
    segment = Field(
        "segment", int, default=0, written_by="claim", meaning="how often it was claimed; 0: nobody began it"
    )

    # -- its way to a worker

    queued_ms = Field[int | None](
        "queued",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="handover resolve promote finish",
        meaning="since when it waits for a worker, where that is later than its creation",
    )
    published_ms = Field[int | None](
        "published",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="published",
        deleted_by="claim handover pause finish",
        meaning="when its message was last given to the broker; missing: it still must be",
    )
    publish_count = Field(
        "publishes",
        int,
        default=0,
        written_by="published",
        deleted_by="resolve",
        meaning="how often its messages were published: repeats get rarer",
    )
    task_id = Field(
        "task",
        _text,
        default="",
        written_by="published claim",
        deleted_by="handover pause",
        meaning="the Celery task of its message, or that runs it now",
    )
    first_task_id = Field(
        "first_task",
        _text,
        default="",
        written_by="claim",
        meaning="the Celery task that claimed it first: the root that monitors show",
    )
    last_task_id = Field(
        "last_task",
        _text,
        default="",
        written_by="claim",
        meaning="the Celery task that claimed it last: the parent of its next message",
    )
    losses = Field(
        "attempts",
        int,
        default=0,
        written_by="handover",
        meaning="how often it was given to another worker after its owner was lost",
    )
    resume_as = Field(
        "resume_as",
        _text,
        default="",
        written_by="handover resolve",
        deleted_by="finish",
        meaning="type of the event that its next claim writes; missing: `run.started`",
    )
    restart_content = Field[bytes | None](
        "restart",
        _same,
        default=None,
        unit=JSON,
        large=True,
        written_by="handover",
        deleted_by="claim finish",
        meaning="content that the next `run.restarted` takes readers back to",
    )
    restart_count = Field(
        "restarts",
        int,
        default=0,
        written_by="claim resync",
        meaning="how often readers had to replace their content: such streams begin anew",
    )

    # -- stopping and ending

    stop_reason = Field[Reason | None](
        "stop_reason",
        _reason,
        default=None,
        written_by="stop start",
        meaning="why somebody asked it to stop; the first one stands. "
        "`start` sets it for the runs that are replaced",
    )
    stop_ms = Field[int | None](
        "stop_ms",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="stop start",
        meaning="when somebody asked it to stop",
    )
    reason = Field[Reason | None](
        "reason", _reason, default=None, written_by="finish copy", meaning="why it ended"
    )
    error = Field[ErrorInfo | None](
        "error",
        _error,
        default=None,
        unit=JSON,
        written_by="finish copy",
        meaning="what failed, if something did: `model.runs.ErrorInfo`",
    )
    started_ms = Field[int | None](
        "started",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="claim copy",
        meaning="when it was claimed first",
    )
    finished_ms = Field[int | None](
        "finished", int, default=None, unit=MILLISECONDS, written_by="finish copy", meaning="when it ended"
    )
    next_run = Field[str | None](
        "next_run",
        _text,
        default=None,
        written_by="finish",
        meaning="the run that its end gave the thread to: for a repeated `finish`",
    )

    # -- waiting for a human

    paused_ms = Field[int | None](
        "paused",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="pause",
        deleted_by="claim",
        meaning="since when it waits for a human, and then for a worker",
    )
    idle_ms = Field(
        "idle",
        int,
        default=0,
        unit="ms",
        written_by="claim",
        meaning="how long it waited like that in all: no part of its duration",
    )
    action_id = Field[str | None](
        "action_id",
        _text,
        default=None,
        written_by="pause",
        meaning="id of the latest action, resolved or not",
    )
    action = Field[Action | None](
        "action",
        Action.model_validate_json,
        default=None,
        unit=JSON,
        large=True,
        written_by="pause",
        deleted_by="resolve finish",
        meaning="what a paused run waits for: `model.actions.Action`",
    )
    fingerprint = Field(
        "fingerprint",
        _text,
        default="",
        unit="digest",
        written_by="pause",
        deleted_by="resolve finish",
        meaning="ties decisions to this very action of this run",
    )
    expires_ms = Field[int | None](
        "expires",
        int,
        default=None,
        unit=MILLISECONDS,
        written_by="pause",
        deleted_by="resolve finish",
        meaning="when the action's window is over",
    )
    decisions = Field[list[dict[str, Any]] | None](
        "decisions",
        _decisions,
        default=None,
        unit=JSON,
        large=True,
        written_by="resolve copy",
        meaning="what was decided about each action so far, in order",
    )
    resolution = Field[str | None](
        "resolved:*",
        _text,
        default=None,
        unit="digest",
        written_by="resolve",
        meaning="by action id: the decision that was first, to answer its repeats",
    )

    # -- what people say about it

    title = Field[str | None](
        "title",
        jsontext.loads,
        default=None,
        unit=JSON,
        written_by="describe copy",
        deleted_by="describe",
        meaning="the title that somebody gave it, in place of its engine's",
    )
    labels = Field[list[str] | None](
        "labels",
        jsontext.loads,
        default=None,
        unit=JSON,
        written_by="describe copy",
        deleted_by="describe",
        meaning="the labels that somebody gave it",
    )
    metadata = Field[dict[str, Any] | None](
        "metadata",
        _object,
        default=None,
        unit=JSON,
        written_by="describe copy",
        deleted_by="describe",
        meaning="the metadata that somebody gave it, in place of the spec's",
    )

    # -- what users say to it

    inputs_total = Field("inputs", int, default=0, written_by="steer", meaning="how many inputs it was sent")
    inputs_read = Field(
        "inputs_read",
        int,
        default=0,
        written_by="inbox",
        deleted_by="finish",
        meaning="how many of them its engine has read, as its owner last said",
    )
    input_entry = Field[bytes | None](
        "input:*",
        _same,
        default=None,
        unit=JSON,
        large=True,
        written_by="steer",
        deleted_by="finish",
        meaning="by number from 1: an input",
    )
    input_receipt = Field[str | None](
        "input_id:*",
        _text,
        default=None,
        unit="`<number> <digest> <ms>`",
        written_by="steer",
        meaning="by input id: which input it is, to answer its repeats",
    )

    def __init__(self, stored: Mapping[str, bytes], read: Iterable[str]) -> None:
        """`stored` has what was there of the fields named in `read`."""
        self._stored = stored
        self._read = frozenset(read)
        self._parsed: dict[str, Any] = {}

    def value(self, field: Field[T]) -> T:
        """Return a field's value, also of a family.

        Raises:
            RuntimeError: it was not read.
            KeyError, ValueError: the record is damaged, or of a later version.
        """
        name = field.name
        if name not in self._read:
            raise RuntimeError(f"the record's field {name!r} was not read")
        if name not in self._parsed:
            self._parsed[name] = field.parsed(self._stored.get(name))
        return self._parsed[name]

    def has(self, *fields: Field[Any]) -> bool:
        """Tell whether all of these fields are there: of a damaged record one may be missing."""
        return all(field.name in self._stored for field in fields)

    def check_version(self) -> None:
        """Raise NewerVersion if only later versions may change the run."""
        runs.check_version(self.version)


def declared() -> Iterator[Field[Any]]:
    """Return the declarations, in their order."""
    return (cast("Field[Any]", value) for value in vars(Record).values() if isinstance(value, Field))


STATE: Final = (
    Record.spec, Record.status, Record.waiting_for, Record.reason, Record.epoch, Record.owner, Record.task_id,
    Record.segment, Record.started_ms, Record.finished_ms, Record.error, Record.stop_reason, Record.action,
    Record.published_ms, Record.losses, Record.queued_ms, Record.sealed_ms, Record.publish_count,
    Record.stop_ms, Record.first_task_id, Record.last_task_id, Record.restart_count, Record.decisions,
    Record.version, Record.nonce, Record.title, Record.labels, Record.metadata,
)  # fmt: skip
"""What the verb `read` returns of a record, in this order."""


def table() -> str:
    """Return the fields as rows of a Markdown table, as `docs/record.md` has them."""
    rows = [
        "| field | attribute | meaning | unit | written by | deleted by | since |",
        "|---|---|---|---|---|---|---|",
    ]
    for field in declared():
        written, deleted = (
            ", ".join(f"`{verb}`" for verb in verbs) for verbs in (field.written_by, field.deleted_by)
        )
        rows.append(
            f"| `{field.name}` | `{field.attribute}` | {field.meaning} | {field.unit or '-'} | {written} "
            f"| {deleted or '-'} | {field.since} |"
        )
    return "\n".join(rows) + "\n"
