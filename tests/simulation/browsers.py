"""The people of a simulation: they start runs, follow them, decide, and abort; whatever breaks, they try again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.eventlog.reading.frames import continues
from mainstem_shared.model import cursors, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import Entry, Type
from simulation.fleet import GatewayProcess, Member
from simulation.network import Network
from simulation.timeline import Timeline
from simulation.web import Lost, Stream, Web

REQUEST_S: Final = 10.0
SILENCE_S: Final = 40.0
"""A stream without even a heartbeat for so long is opened anew."""
LONG: Final = 0.15
"""Share of runs that would last for LONG_S, and are aborted."""
LONG_S: Final = 250.0
TIRED_S: Final = 900.0
"""After so long somebody gives up."""


@dataclass(slots=True, kw_only=True)
class Reader:
    """What one reader of a run has received."""

    run_id: str
    cursor: Cursor = START
    content: Content = field(default_factory=Content)
    end: dict[str, Any] | None = None
    ended_at: float = 0.0
    said: str = ""
    """What the events before the end added up to."""
    is_gone: bool = False
    connections: int = 0
    events: int = 0
    resyncs: int = 0
    faults: list[str] = field(default_factory=list[str])
    log: list[str] = field(default_factory=list[str])

    def take(self, entry: Entry) -> None:
        """Take an event, and see whether it may come now."""
        self.events += 1
        self.log.append(f"{entry.cursor} {entry.type}")
        if self.end is not None:
            self.faults.append(f"{entry.type} at {entry.cursor} after the end")
        if entry.type != Type.SNAPSHOT and not continues(self.cursor, entry):
            self.faults.append(f"{entry.type} at {entry.cursor} does not follow {self.cursor}")
        if entry.type == Type.RESYNC:
            self.resyncs += 1
        if entry.type == Type.FINISHED:
            self.said = self.content.text
            self.end = entry.payload()
        self.content.apply_entry(entry)
        self.cursor = entry.cursor


@dataclass(slots=True, kw_only=True)
class Life:
    """One run as its user knows it."""

    number: int
    begun: float
    run_id: str = ""
    acknowledged: float | None = None
    gave_up: bool = False
    aborted: str = ""
    """The outcome of an abort that was answered."""
    aborted_at: float = 0.0
    readers: list[Reader] = field(default_factory=list[Reader])


class Browsers(Member):
    """A process with all the people."""

    def __init__(self, timeline: Timeline, network: Network, *, number: int) -> None:
        super().__init__(timeline, network, "browsers", number=number)
        self.gateways: list[GatewayProcess] = []
        self.lives: list[Life] = []
        self.web = Web(network, self.process)
        self.random: Random = timeline.random("people")

    def start_one(self) -> None:
        """Let somebody start a run now."""
        life = Life(number=len(self.lives), begun=self.process.timeline.now)
        self.lives.append(life)
        plan = self._plan()
        self.begin(lambda: self._live(life, *plan))

    def _plan(self) -> tuple[dict[str, Any], float | None, int]:
        """Draw a script, when to abort, and how many read along."""
        draw = self.random
        steps: list[dict[str, Any]] = [{"do": "text", "amount": draw.randint(1, 5)}]
        for _ in range(draw.randint(1, 4)):
            kind = draw.choice(["text", "wait", "save", "approve", "rest", "text"])
            amount = {
                "text": draw.choice([2, 4, 30]),
                "wait": draw.uniform(0.5, 12.0),
                "rest": draw.uniform(2.0, 15.0),
            }
            steps.append({"do": kind, "amount": amount.get(kind, 0)})
        request = {
            "thread_id": f"t{draw.randint(0, 7)}",
            "engine": "scripted",
            "input": {"steps": steps},
            "if_active": draw.choice(["enqueue", "enqueue", "replace", "reject"]),
            "on_worker_lost": draw.choice(["fail", "resume"]),
        }
        abort_s = draw.uniform(0.0, 15.0) if draw.random() < 0.2 else None
        if draw.random() < LONG:
            steps.append({"do": "wait", "amount": LONG_S})
            abort_s = draw.uniform(0.0, 20.0)
        return request, abort_s, draw.choice([1, 1, 2])

    async def _live(self, life: Life, request: dict[str, Any], abort_s: float | None, readers: int) -> None:
        if not await self._start(life, request):
            return
        for _ in range(readers):
            reader = Reader(run_id=life.run_id)
            life.readers.append(reader)
            self.spawn(self._read(reader))
        if abort_s is not None:
            await asyncio.sleep(abort_s)
            answer = await self._ask("abort", {"run_id": life.run_id, "wait": 2.0})
            life.aborted = "" if answer is None else str(answer.outcome)
            life.aborted_at = self.process.timeline.now

    async def _start(self, life: Life, request: dict[str, Any]) -> bool:
        key = f"start {life.number}"
        answer = await self._ask("start", {**request, "idempotency_key": key})
        if answer is None:
            life.gave_up = True
            return False
        life.run_id, life.acknowledged = answer.run.run_id, self.process.timeline.now
        return True

    async def _ask(self, method: str, arguments: dict[str, Any]) -> Any:
        """Ask some gateway until one answers; None if it says no, or nobody answers for long."""
        until = self.process.timeline.now + TIRED_S
        while self.process.timeline.now < until:
            try:
                return await self.web.request(self._gateway(), method, arguments, timeout_s=REQUEST_S)
            except (Lost, errors.Unavailable):
                await asyncio.sleep(self.random.uniform(0.2, 1.0))
            except errors.MainstemError as error:
                self._network.note("refused", "browsers", method, error.code)
                return None
        return None

    def _gateway(self) -> GatewayProcess:
        return self.random.choice(self.gateways)

    # -- reading

    async def _read(self, reader: Reader) -> None:
        """Follow a run to its end, over as many connections as it takes."""
        until = self.process.timeline.now + TIRED_S
        while reader.end is None and not reader.is_gone and self.process.timeline.now < until:
            reader.connections += 1
            after = None if reader.cursor == START else str(reader.cursor)
            stream = Stream(self.web, self._gateway(), {"run_id": reader.run_id, "after": after})
            try:
                await self._read_stream(reader, stream)
            except (Lost, errors.Unavailable):
                await asyncio.sleep(self.random.uniform(0.1, 0.5))
            except errors.NotFound:
                reader.is_gone = True
            finally:
                stream.close()

    async def _read_stream(self, reader: Reader, stream: Stream) -> None:
        rest = b""
        while chunk := await stream.chunk(SILENCE_S):
            *frames, rest = (rest + chunk).split(b"\n\n")
            for frame in frames:
                if not frame.startswith(b":"):
                    self._take(reader, frame)
        if reader.end is None and stream.status != 204:
            reader.faults.append("a clean end of the stream without the run's end")

    def _take(self, reader: Reader, frame: bytes) -> None:
        fields = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
        entry = Entry(cursors.parse(fields[b"id"]), fields[b"event"].decode(), fields[b"data"])
        reader.take(entry)
        reader.ended_at = self.process.timeline.now
        if entry.type == Type.APPROVAL_REQUIRED:
            self.spawn(self._decide(reader.run_id, jsontext.loads(entry.data)))

    async def _decide(self, run_id: str, asked: dict[str, Any]) -> None:
        """Decide about calls, after a look at them."""
        action = asked["action"]
        if not action.get("calls"):
            return  # it waits for a time
        await asyncio.sleep(self.random.uniform(0.5, 6.0))
        decisions = [
            {"call_id": call["call_id"], "type": self.random.choice(["approve", "reject"])}
            for call in action["calls"]
        ]
        arguments = {"run_id": run_id, "action_id": action["action_id"], "decisions": decisions}
        await self._ask("resume", arguments)
