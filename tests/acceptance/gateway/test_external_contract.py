"""What is promised to strangers: HTTP, SSE, processes and Celery, from outside and without our packages.

One stack per module, as `make run` starts it; a second one where a test destroys it. What happens on the way is
tested elsewhere: here stand the shapes that clients are written against.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import celery
import httpx
import jsonschema
import pytest

from mainstem_api.gateway.adapters.routers import ERROR_FORMATS
from support.clients.raw_http import LONG, RUN, STATE, TIME, Client, check_problem, parse, text_of
from support.engines.demowords import demo_text
from support.paths import ROOT
from support.processes.stacks import PROGRAM, StackProcess
from support.waiting import wait_until

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    directory = tmp_path_factory.mktemp("contract")
    (directory / "my_engines.py").write_text(SNIPPETS[0])  # the README's engine, in the working directory
    with StackProcess(directory, MAINSTEM_WORKERS="2", MAINSTEM_ENGINES="my_engines") as stack:
        stack.start().wait_ready()
        client = Client(stack)
        with client.http:
            wait_until(
                lambda: client.post(engine="shout", input={"text": ""}).status_code == 202,
                description="the workers' engines",
                timeout_s=20,
            )
            yield client


# -- runs


def test_a_start_answers_the_run_and_its_place(client: Client):
    """202, `Location`, and a run with all its members; it then ends with the exact text and typed times."""
    answer = client.post(
        "shapes", engine="demo", input={"tokens": 5, "interval_ms": 1}, metadata={"a": [1, None]}
    )
    started = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/runs/{started['run_id']}"
    assert set(started) == RUN
    assert started["status"] in ("queued", "running", "succeeded")
    run = client.finished(started["run_id"])
    assert set(run) == RUN
    assert (run["status"], run["reason"], run["error"], run["waiting_for"]) == (
        "succeeded",
        "completed",
        None,
        None,
    )
    assert (run["text"], run["content"]) == (demo_text(5), [{"type": "text", "text": demo_text(5)}])
    assert (run["thread_id"], run["user_id"], run["engine"]) == ("shapes", "local", "demo")
    assert (run["steps"], run["usage"], run["title"], run["action"]) == ([], None, None, None)
    assert (run["metadata"], run["cursor"]) == ({"a": [1, None]}, client.events(run["run_id"])[-1][0])
    times = [run["created_at"], run["started_at"], run["finished_at"]]
    assert all(TIME.fullmatch(time) for time in times)
    assert times == sorted(times)
    listed = client.http.get("/v1/threads/shapes/runs").json()
    assert listed == {"runs": [run], "next": None}


def test_a_running_run_is_folded_to_the_top(client: Client):
    """Its text is a growing, exact prefix; what a reader then gets after its cursor is exactly the rest."""
    run_id = client.start({"tokens": 100, "interval_ms": 10})
    seen = client.streaming(run_id)
    assert (seen["status"], seen["finished_at"], seen["reason"]) == ("running", None, None)
    assert demo_text(100).startswith(seen["text"])
    assert seen["text"].split(" ")[-1] == f"w{len(seen['text'].split(' ')) - 1}"
    rest = client.events(run_id, seen["cursor"])
    deltas = [event for event in rest if event[1] == "message.delta"]
    assert text_of(deltas, seen["text"]) == demo_text(100)


@pytest.mark.parametrize(
    ("given", "text", "reason"),
    [
        ({"tokens": 3, "interval_ms": 0}, "w0 w1 w2", "completed"),
        ({"tokens": 0, "interval_ms": 1}, "", "completed"),
        ({"tokens": 5, "interval_ms": 1, "fail_at": 0}, "", "engine_error"),
        ({"tokens": 5, "interval_ms": 1, "fail_at": 3}, "w0 w1 w2", "engine_error"),
        ({"interval_ms": 1, "text": "Grüße  an\ndich \u2028 "}, "Grüße  an\ndich \u2028 ", "completed"),
    ],
)
def test_the_demo_engines_text_is_known(client: Client, given: dict[str, Any], text: str, reason: str):
    """Words, a failure before word k, and a given text, to the letter; failures carry code and message."""
    run = client.finished(client.start(given))
    assert (run["text"], run["reason"]) == (text, reason)
    assert run["status"] == ("succeeded" if reason == "completed" else "failed")
    assert (run["error"] is None) == (reason == "completed")
    if run["error"] is not None:
        assert set(run["error"]) == {"code", "message"}
    end = client.events(run["run_id"])[-1]
    assert end[1] == "run.finished"
    assert {name: end[2][name] for name in ("status", "reason", "text", "content", "usage", "error")} == {
        name: run[name] for name in ("status", "reason", "text", "content", "usage", "error")
    }


def test_a_run_over_its_time_is_timed_out(client: Client):
    """`max_duration_s` ends it as failed, `timed_out`, with what it had."""
    run = client.finished(client.start(LONG, max_duration_s=0.3))
    assert (run["status"], run["reason"]) == ("failed", "timed_out")
    assert demo_text(3000).startswith(run["text"])


def test_a_key_starts_once(client: Client):
    """A replay is the current run, said so, before `if_active`; another body is refused; no key meets 409."""
    key = {"Idempotency-Key": "k-1"}
    body = {"engine": "demo", "input": {"tokens": 40, "interval_ms": 20}}
    first = client.post("keyed", key, **body)
    run_id = first.json()["run_id"]
    assert "idempotency-replayed" not in first.headers
    busy = client.post("keyed", **body)
    assert check_problem(busy, 409, "thread_busy")["run_id"] == run_id
    check_problem(client.post("keyed", {"Idempotency-Key": "k-2"}, **body), 409, "thread_busy")
    check_problem(client.post("keyed", key, **{**body, "input": {}}), 422, "idempotency_key_reused")
    for _ in range(2):
        replay = client.post("keyed", key, **body)
        assert (replay.status_code, replay.headers["idempotency-replayed"]) == (202, "true")
        assert replay.json()["run_id"] == run_id
        client.finished(run_id)
    assert replay.json()["text"] == demo_text(40)
    assert client.post("another", key, **body).json()["run_id"] != run_id


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"{", 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b'{"engine": "\xff"}', 422, "invalid_request"),
        (b'{"engine": "demo", "input": 1}', 422, "invalid_request"),
        (b'{"engine": "demo", "if_active": "often"}', 422, "invalid_request"),
        (b'{"engine": "demo", "max_duration_s": 0}', 422, "invalid_request"),
        (b'{"engine": "demo", "surprise": 1}', 422, "invalid_request"),
        (b'{"engine":"demo","metadata":' + b'{"x":' * 300 + b"1" + b"}" * 301, 422, "invalid_request"),
        (b'{"engine":"demo","input":' + b'{"x":' * 99_999 + b"1" + b"}" * 100_000, 422, "invalid_request"),
        (b'{"engine": "nobody_has_this"}', 422, "unknown_engine"),
        (b'{"engine": "demo", "input": {"tokens": "many"}}', 422, "invalid_input"),
        (b'{"engine": "demo", "input": {"text": "' + b"x" * 3_000_000 + b'"}}', 413, "input_too_large"),
        (b'{"engine": "demo", "input": {"text": "' + b"x" * 34_000_000 + b'"}}', 413, "body_too_large"),
    ],
    ids=itertools.count(),
)
def test_what_does_not_fit_is_refused(client: Client, body: bytes, status: int, code: str):
    """A problem document with a code, and no run."""
    headers = {"content-type": "application/json"}
    answer = client.http.post("/v1/threads/refused/runs", content=body, headers=headers)
    check_problem(answer, status, code)
    assert client.http.get("/v1/threads/refused/runs").json() == {"runs": [], "next": None}


def test_what_is_not_there_or_not_yours_is_404(client: Client):
    """Unknown runs, malformed ids, other paths, and a run of another user."""
    task_id = submit(
        client, {"thread_id": "theirs", "engine": "demo", "input": {"tokens": 1}, "user_id": "eve"}
    )
    mine = submit(client, {"thread_id": "mine", "engine": "demo", "input": {"tokens": 1}, "user_id": "local"})
    client.finished(wait_until(lambda: readable(client, "mine", mine), description="the later run"))
    for path in ("nobody", "a" * 16 + "_" + "b" * 26, run_id_of("theirs", task_id), "%00"):
        check_problem(client.http.get(f"/v1/runs/{path}"), 404, "not_found")
        check_problem(client.http.get(f"/v1/runs/{path}/events"), 404, "not_found")
    check_problem(client.http.get("/v1/nothing"), 404, "not_found")
    check_problem(client.http.put("/v1/runs/x"), 405, "method_not_allowed")


# -- events


def test_events_are_frames_with_cursors(client: Client):
    """Headers, whole LF frames, created first, finished last; from each cursor exactly what follows; then 204."""
    run_id = client.start({"tokens": 30, "interval_ms": 5})
    answer = client.http.get(f"/v1/runs/{run_id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    events = parse(answer.content)
    assert [events[0][1], events[1][1], events[-1][1]] == ["run.created", "run.started", "run.finished"]
    assert all(set(data) == {"part", "text"} for _, kind, data in events if kind == "message.delta")
    assert set(events[-1][2]) >= STATE
    assert text_of(events[:-1]) == text_of(events) == demo_text(30)
    for at in range(len(events)):
        assert client.events(run_id, events[at][0]) == events[at + 1 :]
    assert client.events(run_id, "0-0") == events
    over = client.http.get(f"/v1/runs/{run_id}/events", params={"after": events[-1][0]})
    assert (over.status_code, over.content) == (204, b"")
    # Last-Event-ID beats ?after: a browser that reconnects to the address it was given.
    assert client.events(run_id, events[5][0], after="0-0") == events[6:]
    assert client.events(run_id, "0-0", after=events[-1][0]) == events


@pytest.mark.parametrize("cursor", ["x", "1", "1-", "-1", "1-2-3", "$", "٣-1", "9" * 30 + "-1", "1-0 2"])
def test_a_bad_cursor_is_400(client: Client, cursor: str):
    """Wherever it stands."""
    run_id = client.start({"tokens": 1})
    path = f"/v1/runs/{run_id}/events"
    check_problem(client.http.get(path, params={"after": cursor}), 400, "invalid_cursor")
    headers = {b"Last-Event-ID": cursor.encode()}
    check_problem(client.http.get(f"{path}?after=0-0", headers=headers), 400, "invalid_cursor")


def test_a_snapshot_replaces_the_past_and_its_id_is_its_cursor(client: Client):
    """In mid-run: the state so far as one event, then only what follows its id."""
    run_id = client.start({"tokens": 100, "interval_ms": 10})
    client.streaming(run_id)
    events = client.events(run_id, **{"from": "snapshot"})
    cursor, kind, state = events[0]
    assert (kind, set(state) >= STATE) == ("snapshot", True)
    assert state["text"]
    assert demo_text(100).startswith(state["text"])
    assert text_of(events[:-1]) == demo_text(100)
    assert client.events(run_id, cursor) == events[1:]
    whole = client.events(run_id)
    assert text_of(whole[: [event[0] for event in whole].index(cursor) + 1]) == state["text"]


def test_one_line_of_json_is_one_line_to_everybody(client: Client):
    """Unicode's line breaks in a text break no client that splits the stream with `str.splitlines`."""
    text = "a\u2028b\u2029c\x85d\re\nf\x0bg"
    run_id = client.start({"text": text, "interval_ms": 1})
    with client.http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        data = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert data[-1]["text"] == text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stream_of_a_live_run_is_never_closed_cleanly(client: Client, number: signal.Signals):
    """A gateway that ends breaks its streams off; the next one continues from the cursor, to the clean end."""
    run_id = client.start(LONG)
    body, signalled = b"", False
    (gateway,) = client.stack.find("mainstem gateway")
    broken = pytest.raises((httpx.RemoteProtocolError, httpx.ReadError))
    with client.http.stream("GET", f"/v1/runs/{run_id}/events") as answer, broken:
        for piece in answer.iter_raw():
            body += piece
            if body.count(b"\n\n") >= 10 and not signalled:
                gateway.send_signal(number)
                signalled = True
    seen = parse(body[: body.rindex(b"\n\n") + 2])
    assert client.http.post(f"/v1/runs/{run_id}/abort", params={"wait": 20}).json()["outcome"] == "aborted"
    rest = client.events(run_id, seen[-1][0])
    cursors = [tuple(map(int, event[0].split("-"))) for event in (*seen, *rest)]
    assert cursors == sorted(set(cursors))
    assert (rest[-1][1], rest[-1][2]["reason"]) == ("run.finished", "user_abort")
    assert text_of([*seen, *rest[:-1]]) == rest[-1][2]["text"]
    assert demo_text(3000).startswith(rest[-1][2]["text"])


def test_without_a_store_everything_says_so_and_nothing_is_lost(client: Client):
    """A store that stands still: 503 with `Retry-After` and a code; afterwards the run is whole."""
    run_id = client.start({"tokens": 50, "interval_ms": 10})
    client.streaming(run_id)
    (server,) = client.stack.find("valkey-server")
    paths = ["/readyz", "/v1/runs", f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/events", "/v1/threads/t/runs"]
    server.suspend()
    try:
        with ThreadPoolExecutor() as pool:
            refused = pool.submit(client.post, engine="demo", input={})
            answers = [*pool.map(client.http.get, paths), refused.result()]
        alive = client.http.get("/healthz").status_code
    finally:
        server.resume()
    assert alive == 200
    for answer in answers:
        assert answer.json()["code"] in ("store_unavailable", "broker_unavailable")
        check_problem(answer, 503, answer.json()["code"])
        assert int(answer.headers["retry-after"]) > 0
    wait_until(lambda: client.stack.get("/readyz") == 200, description="the gateway to be ready")
    assert client.finished(run_id)["text"] == demo_text(50)


# -- documents


def test_the_openapi_document_describes_what_is_answered(client: Client):
    """Real answers fit the schemas, and every refusal is described as a problem document."""
    document = client.http.get("/openapi.json").json()
    assert client.http.get("/docs").status_code == 200
    run_id = client.start({"tokens": 3, "fail_at": 2, "interval_ms": 1})
    run = client.finished(run_id)
    resolved = {**document, "$ref": "#/components/schemas/Run"}
    jsonschema.validate(run, resolved)
    assert set(document["components"]["schemas"]["Run"]["required"]) == RUN
    for broken in ({"content": [{"type": "text"}]}, {"usage": {}}, {"error": "x"}, {"status": "done"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**run, **broken}, resolved)
    routes = {(m, path) for path, item in document["paths"].items() for m in item}
    assert {
        ("post", "/v1/threads/{thread_id}/runs"),
        ("get", "/v1/threads/{thread_id}/runs"),
        ("get", "/v1/runs"),
        ("get", "/v1/runs/{run_id}"),
        ("get", "/v1/runs/{run_id}/events"),
        ("get", "/readyz"),
    } <= routes
    for method, path in routes:
        for status, answer in document["paths"][path][method]["responses"].items():
            if status >= "400":
                # Protocols that have an error format of their own tell their errors in it.
                has_own = any(path == prefix or path.startswith(f"{prefix}/") for prefix in ERROR_FORMATS)
                kinds = {"application/problem+json", *["application/json"] * has_own}
                assert set(answer["content"]) <= kinds, (method, path, status)
                assert answer["content"]


# -- Celery and the README


def broker_of(client: Client) -> str:
    return client.stack.url("Valkey").removesuffix("/0") + "/1"


def submit(client: Client, kwargs: dict[str, Any]) -> str:
    task_id = str(uuid.uuid4())
    with celery.Celery(broker=broker_of(client)) as app:
        app.send_task("mainstem.submit", task_id=task_id, kwargs=kwargs)
    return task_id


def run_id_of(thread_id: str, task_id: str) -> str:
    """Compute a run's id with the README's three lines."""
    (lines,) = [snippet for snippet in SNIPPETS if snippet.startswith("b32 =")]
    names: dict[str, Any] = {
        "base64": base64, "hashlib": hashlib, "uuid": uuid, "thread_id": thread_id, "task_id": task_id
    }  # fmt: skip
    exec(lines, names)
    return names["run_id"]


def readable(client: Client, thread_id: str, task_id: str) -> str | None:
    run_id = run_id_of(thread_id, task_id)
    return run_id if client.http.get(f"/v1/runs/{run_id}").status_code == 200 else None


def test_plain_celery_submits(client: Client):
    """The README's `send_task` starts a run whose id its three lines compute."""
    (lines,) = [snippet for snippet in SNIPPETS if "send_task" in snippet]
    names: dict[str, Any] = {"Celery": celery.Celery, "uuid": uuid, "broker_url": broker_of(client)}
    exec(lines, names)
    names["app"].close()
    thread_id, task_id = names["thread_id"], names["task_id"]
    run_id = wait_until(lambda: readable(client, thread_id, task_id), description="the run")
    run = client.finished(run_id)
    assert (run["run_id"], run["thread_id"], run["reason"]) == (run_id, thread_id, "completed")


def test_the_readmes_programs_work_as_written(client: Client):
    """The engine in the working directory, the command that runs it, and the Python client."""
    environment = {**os.environ, "MAINSTEM_URL": client.stack.url("Gateway")}
    shown = re.search(r"\$ \.venv/bin/mainstem run --engine shout --input '(.*?)'\n(.*)\n", README)
    assert shown is not None
    (program,) = [snippet for snippet in SNIPPETS if "with Runs() as runs" in snippet]
    commands = [
        [PROGRAM, "run", "--engine", "shout", "--input", shown[1]],
        [sys.executable, "-c", program],
    ]
    ran, printed = (
        subprocess.run(
            command,
            cwd=client.stack.directory, env=environment, capture_output=True, text=True, timeout=30, check=True,
        ).stdout
        for command in commands
    )  # fmt: skip
    assert ran.strip() == shown[2]
    kinds = [line.split(" ")[1] for line in printed.splitlines()]
    assert kinds[:3] == ["run.created", "run.started", "message.delta"]
    assert kinds[-1] == "run.finished"


# -- processes


def test_only_workers_are_called_workers(client: Client):
    """`mainstem worker` is in the command lines of the workers; all but the server are in one group."""
    workers = client.stack.find("mainstem worker")
    (server,) = client.stack.find("valkey-server")
    assert len(workers) == 2
    assert os.getsid(server.pid) == server.pid
    others = [process for process in client.stack.alive() if process != server]
    assert {os.getpgid(process.pid) for process in others} == {client.stack.pid}
