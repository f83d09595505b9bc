"""A stranger at the gateway: plain HTTP and a strict SSE parser, with nothing of ours but the contract."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import httpx

from support.processes.stacks import StackProcess
from support.waiting import wait_until

RUN = {
    "run_id", "thread_id", "user_id", "status", "reason", "waiting_for", "engine", "created_at", "started_at",
    "finished_at", "text", "content", "steps", "usage", "title", "action", "cursor", "epoch", "worker", "error",
    "metadata",
}  # fmt: skip
STATE = {"text", "content", "steps", "usage", "title", "action"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
FRAME = re.compile(rb"id: (\d+-\d+)\nevent: ([a-z._]+)\ndata: ([^\r\n]*)\n\n")
ACTIVE = ("queued", "running", "requires_action")
LONG = {"tokens": 3000, "interval_ms": 20}

_threads = (f"thread-{number}" for number in itertools.count())


class Client:
    """A stranger at the gateway: plain HTTP, and the contract."""

    def __init__(self, stack: StackProcess) -> None:
        self.stack = stack
        self.http = httpx.Client(base_url=stack.url("Gateway"), timeout=20)

    def post(
        self, thread: str | None = None, headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        return self.http.post(f"/v1/threads/{thread or next(_threads)}/runs", json=body, headers=headers)

    def start(self, engine_input: dict[str, Any], *, engine: str = "demo", **more: Any) -> str:
        answer = self.post(engine=engine, input=engine_input, **more)
        assert answer.status_code == 202, answer.text
        return answer.json()["run_id"]

    def get(self, run_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def finished(self, run_id: str) -> dict[str, Any]:
        def ended() -> dict[str, Any]:
            run = self.get(run_id)
            return {} if run["status"] in ACTIVE else run

        return wait_until(ended, description="the run's end", timeout_s=30)

    def streaming(self, run_id: str) -> dict[str, Any]:
        """Wait until the run has text."""
        return wait_until(
            lambda: run if (run := self.get(run_id))["text"] else None, description="text", timeout_s=20
        )

    def events(self, run_id: str, last_id: str | None = None, **query: str) -> list[tuple[str, str, Any]]:
        """Follow to the end, from `Last-Event-ID` on, and parse strictly."""
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        answer = self.http.get(f"/v1/runs/{run_id}/events", headers=headers, params=query)
        return [] if answer.status_code == 204 else parse(answer.content)


def parse(body: bytes) -> list[tuple[str, str, Any]]:
    """Split a body into events: nothing but whole frames and comments, no id twice, in order."""
    frames = re.sub(rb"^:[^\n]*\n\n", b"", body, flags=re.MULTILINE)
    found = FRAME.findall(frames)
    assert b"".join(b"id: %s\nevent: %s\ndata: %s\n\n" % frame for frame in found) == frames, frames[-900:]
    events = [(cursor.decode(), kind.decode(), json.loads(data)) for cursor, kind, data in found]
    order = [tuple(map(int, cursor.split("-"))) for cursor, _, _ in events]
    assert order == sorted(set(order))
    return events


def text_of(events: list[tuple[str, str, Any]], text: str = "") -> str:
    """Read as the contract says: deltas append, states replace."""
    for _, kind, data in events:
        if kind == "message.delta":
            text += data["text"]
        elif kind in ("snapshot", "resync", "run.finished"):
            text = data["text"]
    return text


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert isinstance(body["title"], str)
    return body
