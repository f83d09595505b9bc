"""The examples run as they stand: a worker of their own app, their web server, a run started and followed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import shutil
import sqlite3
from types import SimpleNamespace

import httpx
import pytest
from celery import Celery

from support.clients.browsers import chromium
from support.paths import ROOT
from support.processes.gateways import GatewayThread
from support.processes.processes import Child
from support.processes.servers import free_port
from support.waiting import wait_until

EXAMPLES = ROOT / "examples"
WORDS = "one two three four five"
SERVERS = {
    "django": ("chat", ("-m", "uvicorn", "chat.asgi:application", "--port")),
    "fastapi": ("worker", ("-m", "uvicorn", "app:app", "--port")),
    "flask": ("worker", ("-m", "flask", "run", "--port")),
}


@pytest.fixture
def example(live, tmp_path):
    """Start an example's processes in a copy of its directory."""

    def start(name: str, app: str) -> SimpleNamespace:
        directory = tmp_path / name
        shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("__pycache__"))
        env = {**live.env, "CELERY_CUSTOM_WORKER_POOL": "mainstem_workers.pool:TaskPool"}
        env["PYTHONPATH"] = str(directory)
        env["MAINSTEM_CALLBACK_TASKS"] = "chat.store"

        def run(label: str, *arguments: str, **more: str) -> Child:
            return live.stack.enter_context(
                Child(label, *arguments, env={**env, **more}, directory=directory)
            )

        worker = run(
            "worker",
            *("-m", "celery", "-A", app, "worker", "--pool", "custom", "-c", "100", "-n", "example@test"),
            *("-l", "INFO", "--without-mingle", "--without-gossip"),
        )
        wait_until(lambda: live.is_ready(worker), description="the worker to be ready", timeout_s=40)
        return SimpleNamespace(run=run, directory=directory, worker=worker)

    return start


def listening(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool(httpx.get(url, trust_env=False).status_code)
    return False


def follow(http: httpx.Client, path: str, after: str | None, most: int) -> list[tuple[str, str, str]]:
    """Read up to `most` events, then hang up."""
    headers = {"Last-Event-ID": after} if after else {}
    seen: list[tuple[str, str, str]] = []
    with http.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "id" in fields:
                seen.append((fields["id"], fields["event"], fields["data"]))
                fields = {}
                if len(seen) == most:
                    break
    return seen


@pytest.mark.parametrize("name", SERVERS)
def test_a_run_is_started_in_a_view_and_followed(example, live, name):
    """A POST starts the run; its reader hangs up, comes back with its cursor and misses nothing."""
    app, command = SERVERS[name]
    stack = example(name, app)
    port = free_port()
    web = stack.run("web", *command, str(port))
    url = f"http://127.0.0.1:{port}"
    wait_until(
        lambda: listening(url) or not web.running, description="the web server to listen", timeout_s=40
    )
    assert web.running, web.log
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as http:
        started = http.post("/chats/thread-1", json={"words": WORDS})
        assert started.status_code == 202, web.log
        path = f"/runs/{started.json()['run_id']}/events"
        events = follow(http, path, None, 2)
        assert [event for _, event, _ in events] == ["run.created", "run.started"]
        events += follow(http, path, events[-1][0], 1000)
        check_ends(http, path, events[-1][0])
        asyncio.run(check_browser(url, path, events[-1][0]))
    check_stored(stack, live.env["MAINSTEM_BROKER_URL"], started.json()["run_id"])
    assert events[-1][1] == "run.finished"
    assert len({cursor for cursor, _, _ in events}) == len(events)
    words = [
        httpx.Response(200, text=data).json()["text"] for _, kind, data in events if kind == "message.delta"
    ]
    assert "".join(words).split() == WORDS.split()


def check_ends(http: httpx.Client, path: str, end: str) -> None:
    """A finished run stops its EventSource; an unknown run is 404, as another user's is; no cursor is 400."""
    assert http.get(path, headers={"Last-Event-ID": end}).status_code == 204
    assert http.get(path.replace(path.split("/")[-2], f"{'a' * 16}_{'b' * 26}")).status_code == 404
    assert http.get(path, headers={"Last-Event-ID": "yesterday"}).status_code == 400
    assert http.get(path, headers={"X-User": "somebody else"}).status_code == 404


async def check_browser(url: str, path: str, end: str) -> None:
    """A browser that comes after the end gets all of it once, and does not ask for ever."""
    async with chromium() as browser:
        page = await browser.new_page()
        await page.goto(f"{url}/nothing-here")
        ended = await page.evaluate(
            """(path) => new Promise((resolve) => {
                const source = new EventSource(path), ends = [];
                source.addEventListener("run.finished", (event) => ends.push(event.lastEventId));
                source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve(ends); };
            })""",
            path,
        )
    assert ended == [end]


def check_stored(stack: SimpleNamespace, broker_url: str, run_id: str) -> None:
    """The final message is in the application's own table: once, also if the event comes twice more."""

    def rows(query: str) -> list[tuple[str, ...]]:
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(stack.directory / "chat.db")) as database,
        ):
            return database.execute(query).fetchall()
        return []

    messages = "SELECT * FROM messages"
    wait_until(lambda: rows(messages), description="the message in the application's table", timeout_s=40)
    assert rows(messages) == [(run_id, "thread-1", f"{WORDS} ")]
    ((event_id,),) = rows("SELECT event_id FROM mainstem_processed_events")
    run = {"run_id": run_id, "thread_id": "thread-1", "text": "again"}
    with Celery(broker=broker_url) as app:
        for again in ("again-1", "again-2"):
            event = {"id": event_id, "type": "run.ended", "data": {**run, "run": run}}
            app.send_task("chat.store", kwargs={"event": event}, task_id=again)
    for again in ("again-1", "again-2"):
        done = f"chat.store[{again}] succeeded"
        wait_until(lambda done=done: done in stack.worker.log, description=done, timeout_s=40)
    assert rows(messages) == [(run_id, "thread-1", f"{WORDS} ")]


def test_a_program_with_only_celery_starts_and_follows(example, live):
    """`send_task`, three lines for the run's id, and HTTP: no import of ours; the project's own task runs too."""
    stack = example("plain_celery", "proj")
    with GatewayThread(live.env["MAINSTEM_REDIS_URL"], live.env["MAINSTEM_BROKER_URL"]) as gateway:
        program = stack.run("submit", "submit.py", WORDS, GATEWAY=gateway.url)
        assert program.wait(30) == 0, program.log
    assert "event: run.finished" in program.log
    assert f'"text":"{WORDS} "' in program.log
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse((EXAMPLES / "plain_celery" / "submit.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert not any(str(module).startswith("mainstem") for module in imported)


@pytest.mark.parametrize(
    "path",
    [
        "plain_celery/proj.py", "plain_celery/submit.py", "flask/app.py", "flask/worker.py", "fastapi/app.py",
        "fastapi/worker.py", "django/chat/views.py", "django/chat/celery.py", "django/chat/tasks.py",
    ],
)  # fmt: skip
def test_examples_stay_small(path):
    """Each part takes fewer than twenty lines, imports and docstring aside."""
    tree = ast.parse((EXAMPLES / path).read_text())
    lines = {
        line
        for node in tree.body
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) or not _is_preamble(node)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    assert 0 < len(lines) < 20


def _is_preamble(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) or isinstance(
        getattr(node, "value", None), ast.Constant
    )
