"""Golden files: recorded event logs, and exactly what each protocol makes of them.

`tests/golden/logs/<log>.jsonl` has one event a line, `["<cursor>", "<type>", {payload}]`, as readers get them;
`tests/golden/<protocol>/<case>.txt` the bytes. MAINSTEM_GOLDEN=write writes the latter anew: read the diff.
"""

from __future__ import annotations

import json
import os

from mainstem_api.gateway.sse import Encoder
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import cursors, jsontext
from mainstem_shared.model.events import Entry
from support.paths import TESTS

GOLDEN = TESTS / "golden"
LOGS = sorted(path.stem for path in (GOLDEN / "logs").glob("*.jsonl"))


def frames(log: str) -> list[Frame]:
    """The events of a recorded log."""
    return [_frame(line) for line in (GOLDEN / "logs" / f"{log}.jsonl").read_text().split("\n") if line]


def _frame(line: str) -> Frame:
    cursor, kind, payload = json.loads(line)
    return Frame(Entry(cursors.parse(cursor), kind, jsontext.dumps(payload)))


def translate(encoder: Encoder, events: list[Frame]) -> bytes:
    """What a client gets that reads these events one by one, up to the end or to a pause."""
    said = [encoder.opening(), *(encoder.take([event]) for event in events)]
    if encoder.resting:
        said.append(encoder.rest())
    return b"".join(said)


def check(protocol: str, case: str, said: bytes) -> None:
    """What was said is what the golden file has."""
    path = GOLDEN / protocol / f"{case}.txt"
    if os.environ.get("MAINSTEM_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(said)
    assert said == path.read_bytes()
