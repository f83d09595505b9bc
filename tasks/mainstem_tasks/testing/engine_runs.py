"""`run_engine` runs an engine in a test, without broker, store or worker.

Events are what the engine emitted, one entry each: a real log merges consecutive deltas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.blobs import drivers
from mainstem_shared.blobs.files import Files
from mainstem_shared.model import contents, events, ids, jsontext
from mainstem_shared.model.actions import Action, Decision
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.messages import Message
from mainstem_shared.model.usage import Usage
from mainstem_shared.settings import Settings
from mainstem_tasks.sdk import registry
from mainstem_tasks.sdk.context import ReadHistory, RunContext, SaveCheckpoint
from mainstem_tasks.sdk.inboxes import Inbox
from mainstem_tasks.sdk.memory import LoadMemory, Memory
from mainstem_tasks.sdk.pauses import is_only_a_pause

SENT: Final = "2026-01-01T00:00:00.000Z"
"""When a test's users say what they say."""


class MemoryChannel:
    """A channel into a list. Never congested; the limits of a real log hold."""

    def __init__(self, fold: Content | None = None, *, epoch: int = 1) -> None:
        self.fold: Content = fold or Content()
        self.events: list[Entry] = []
        self.closed = False
        self._cursor = Cursor(epoch, 0)

    def text(self, kind: Type, text: str) -> None:
        """Append to the open part of this kind."""
        if self.closed:
            raise errors.ChannelClosed
        if not text:
            return
        part = len(self.fold.parts)
        last = self.fold.parts[-1] if self.fold.parts else None
        if (
            isinstance(last, TextPart)
            and last.kind == contents.type_of_delta[kind]
            and not self.fold.interrupted
        ):
            part -= 1
        self._append(kind, {"part": part, "text": text})

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        """Append any other event."""
        data = events.check_size(jsontext.dumps(payload))
        self._append(kind, contents.check(kind, jsontext.checked(data)))

    def _append(self, kind: str, payload: dict[str, Any]) -> None:
        if self.closed:
            raise errors.ChannelClosed
        data = jsontext.dumps(payload)
        if self.fold.weight + contents.weight_of(kind, payload, len(data)) > events.CONTENT_LIMIT:
            raise errors.ContentTooLarge(limit=events.CONTENT_LIMIT)
        self._cursor = self._cursor.next()
        self.events.append(Entry(cursor=self._cursor, type=str(kind), data=data))
        self.fold.apply(kind, payload)

    @property
    def congested(self) -> bool:
        """Whether the engine should wait."""
        return False

    async def drained(self) -> None:
        """Wait until there is room."""

    async def flush(self) -> Cursor:
        """Return the cursor of the last event."""
        return self._cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """What came of an engine's run."""

    events: list[Entry]
    fold: Content
    checkpoint: bytes | None
    """The last state the engine saved."""
    memory: dict[str, bytes]
    """What the engine's memory of its thread is afterwards."""
    action: Action | None
    """What the engine paused for; its state is the `checkpoint` then."""
    error: Exception | None
    """What the engine raised; only with `check=False`."""

    @property
    def text(self) -> str:
        """All text parts, concatenated."""
        return self.fold.text

    @property
    def content(self) -> list[dict[str, Any]]:
        """The content's parts, as readers get them."""
        return self.fold.dump()["content"]

    @property
    def usage(self) -> Usage | None:
        """The run's tokens."""
        return None if self.fold.usage is None else Usage.model_validate(self.fold.usage)

    @property
    def output(self) -> Any:
        """What the engine returned, or gave as the run's output."""
        return self.fold.extra.get("output")

    def payloads(self, kind: str) -> list[dict[str, Any]]:
        """Return the payloads of all events of one type, in order."""
        return [event.payload() for event in self.events if event.type == kind]


async def run_engine(
    engine: str | registry.Engine | Callable[..., Any],
    input: Mapping[str, Any] | None = None,  # noqa: A002 - the name engines use
    *,
    check: bool = True,
    channel: MemoryChannel | None = None,
    run_id: str | None = None,
    segment: int = 1,
    state: bytes | None = None,
    decisions: Mapping[str, Decision] | None = None,
    metadata: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    stopping: Callable[[], bool] = lambda: False,
    inbox: Iterable[str] = (),
    history: Sequence[Message] = (),
    memory: Mapping[str, bytes] | None = None,
) -> EngineRun:
    """Run an engine (decorated function, or a registered name) to its end, as a worker would.

    `state`, `segment` and `decisions` play a continuation; `inbox` is what users say meanwhile, `history`
    what was said on the thread before, `memory` what the engine has kept there. `check=False` keeps what the
    engine raises as the result's `error`, with everything it emitted before.

    Raises:
        InvalidInput: the engine's model refuses the input.
    """
    found = _found(engine)
    channel = channel or MemoryChannel(epoch=segment + 1)
    saved: list[bytes] = []
    raw = dict(input or {})
    run = RunContext[Any](
        channel,
        run_id=run_id or ids.run_id("default", "test-thread", ids.uuid7()),
        thread_id="test-thread",
        user_id="local",
        tenant="default",
        input=found.parse(raw),
        raw_input=raw,
        metadata=metadata or {},
        segment=segment,
        state=state,
        decisions=decisions,
        settings=settings,
        stopping=stopping,
        save=_saving(saved),
        inbox=_inbox(channel, inbox),
        memory=Memory(_kept(memory), engine=found.name, settings=settings),
        history=_earlier(history),
        files=Files(settings or Settings(), drivers.Memory()),
    )
    failure = await _failure_of(found, run, channel)
    if failure is not None and check:
        raise failure
    return await _result(run, channel, saved, failure)


async def _result(
    run: RunContext[Any], channel: MemoryChannel, saved: list[bytes], failure: Exception | None
) -> EngineRun:
    if (pause := run.pause) is not None and pause.state is not None:
        saved.append(pause.state)
    return EngineRun(
        events=channel.events,
        fold=channel.fold,
        checkpoint=saved[-1] if saved else None,
        memory=await run.memory.items(),
        action=None if pause is None else pause.action,
        error=failure,
    )


def _saving(saved: list[bytes]) -> SaveCheckpoint:
    async def save(data: bytes, _: Cursor, __: Changes | None) -> bool:
        saved.append(data)
        return True

    return save


def _kept(memory: Mapping[str, bytes] | None) -> LoadMemory:
    async def load() -> dict[str, bytes]:
        return dict(memory or {})

    return load


def _earlier(history: Sequence[Message]) -> ReadHistory:
    async def earlier(limit: int) -> list[Message]:
        return list(history)[-limit:]

    return earlier


def _inbox(channel: MemoryChannel, texts: Iterable[str]) -> Inbox:
    inbox = Inbox(channel)
    inbox.deliver(
        {"input_id": f"in_{n}", "text": text, "by": "local", "sent_at": SENT} for n, text in enumerate(texts)
    )
    return inbox


async def _failure_of(
    engine: registry.Engine, run: RunContext[Any], channel: MemoryChannel
) -> Exception | None:
    try:
        await engine.execute(run)
    except Exception as error:  # noqa: BLE001 - the caller decides
        return error
    except BaseException as error:
        if not is_only_a_pause(error):
            raise
    finally:
        channel.closed = True  # whatever the engine left running must not emit: a real run is over now
    return None


def _found(engine: str | registry.Engine | Callable[..., Any]) -> registry.Engine:
    if isinstance(engine, registry.Engine):
        return engine
    return registry.get(engine) if isinstance(engine, str) else registry.of(engine)
