"""The commands people type, against a real gateway, a real worker and a real store."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from support.clients.commands import System
from support.engines.demowords import demo_text
from support.processes.gateways import GatewayThread
from support.processes.servers import free_port
from support.waiting import wait_until


def test_run_prints_exactly_the_text(system: System):
    """In a pipe stdout is the text and a newline; status and outcome are on stderr; the code says success."""
    result = system.run_demo(tokens=20, interval_ms=1)
    assert result.stdout == demo_text(20) + "\n"
    assert "running" in result.stderr
    assert "succeeded" in result.stderr
    assert result.exit_code == 0


def test_run_says_why_a_run_failed(system: System):
    """A failed run keeps its partial text on stdout; stderr has the reason; the code is 1."""
    result = system.run_demo(tokens=20, interval_ms=1, fail_at=3)
    assert result.stdout == demo_text(3) + "\n"
    assert "engine_error" in result.stderr
    assert result.exit_code == 1


def test_run_as_json_prints_the_log(system: System):
    """One event a line, from run.created to run.finished, with cursors to go on from."""
    result = system.run_demo("--json", tokens=3)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    created, started = (event["cursor"].split("-") for event in events[:2])
    assert (created, started[1]) == (["1", "0"], "0")
    assert int(started[0]) > 1
    assert (events[0]["type"], events[-1]["type"]) == ("run.created", "run.finished")
    assert events[-1]["data"]["text"] == demo_text(3)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["run", "--engine", "nosuch"], "unknown_engine", 2),
        (["run", "--engine", "demo", "--input", '{"tokens": -1}'], "invalid_input", 2),
        (["run", "--engine", "demo", "--input", "[1]"], "a JSON object", 2),
        (["run", "--engine", "demo", "--input", "@/no/such/file"], "No such file", 2),
        (["run"], "MAINSTEM_DEFAULT_ENGINE", 2),
        (["watch", "nonsense"], "not_found", 2),
        (["watch", "nonsense", "--after", "x"], "not a cursor", 2),
    ],
)
def test_refusals_are_one_line_and_a_code(system: System, arguments: list[str], words: str, code: int):
    """What the gateway or the command refuses is said on stderr, without a traceback."""
    result = system.call(*arguments)
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert result.exit_code == code


@pytest.mark.parametrize("command", [["run", "--engine", "demo"], ["watch", "x"], ["runs"]])
def test_without_a_gateway_the_address_is_named(system: System, command: list[str]):
    """Nobody listening: code 4, and the address that was tried."""
    url = f"http://127.0.0.1:{free_port()}"
    result = system.call(*command, "--url", url)
    assert url in result.stderr
    assert result.exit_code == 4


def test_input_comes_from_a_file_too(system: System, tmp_path: Path):
    """`--input @FILE` is the file's JSON."""
    file = tmp_path / "input.json"
    file.write_text('{"text": "from a file"}')
    result = system.call("run", "--engine", "demo", "--input", f"@{file}")
    assert result.stdout == "from a file\n"


def test_ctrl_c_leaves_the_run_going_and_watch_takes_it_up(system: System, tmp_path: Path):
    """Interrupted, `run` names the command that goes on where it was: both outputs together are the text."""
    out, err, more = tmp_path / "out", tmp_path / "err", tmp_path / "more"
    given = json.dumps({"tokens": 100_000, "interval_ms": 200})  # it ends when it is told to
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        more.open("wb") as taken_up,
        ExitStack() as stack,
    ):
        process = system.popen("run", "-e", "demo", "-i", given, stdout=stdout, stderr=stderr)
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_until(lambda: b"w3" in out.read_bytes(), description="the first words", timeout_s=30)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        named = re.search(r"mainstem (watch .*)", err.read_text())
        assert named is not None
        command = shlex.split(named[1])
        process = system.popen(*command, stdout=taken_up, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_until(lambda: more.read_bytes().count(b"w") > 3, description="more words", timeout_s=30)
        assert system.call("abort", command[1], "--wait", "20").exit_code == 0
        assert process.wait(20) == 3
    told = out.read_text().removesuffix("\n") + more.read_text().removesuffix("\n")
    assert told == httpx.get(f"{system.gateway.url}/v1/runs/{command[1]}", trust_env=False).json()["text"]
    assert demo_text(100_000).startswith(told)


def test_watch_survives_a_restart_of_the_gateway(system: System, tmp_path: Path):
    """The gateway goes away in mid-run and comes back on its port: the text is whole, and stderr tells."""
    out, err = tmp_path / "out", tmp_path / "err"
    urls = system.valkey.url(0), system.valkey.url(1)
    given = json.dumps({"tokens": 60, "interval_ms": 50})
    with ExitStack() as stack:
        first = stack.enter_context(GatewayThread(*urls))
        started = system.call("run", "-e", "demo", "-i", '{"tokens": 1}', "--url", first.url)
        assert started.exit_code == 0
        stdout, stderr = (stack.enter_context(file.open("wb")) for file in (out, err))
        command = ("run", "-e", "demo", "-i", given, "--url", first.url)
        process = system.popen(*command, stdout=stdout, stderr=stderr)
        stack.callback(process.wait)
        stack.callback(process.kill)
        wait_until(lambda: b"w3" in out.read_bytes(), description="the first words", timeout_s=30)
        port = first.port
        first.stop()
        wait_until(lambda: b"reconnecting" in err.read_bytes(), description="the loss to be noticed")
        stack.enter_context(GatewayThread(*urls, port=port))
        assert process.wait(30) == 0
    assert out.read_text() == demo_text(60) + "\n"
    assert "connected again" in err.read_text()


def test_on_a_terminal_the_text_stands_above_a_status_line(system: System):
    """A terminal gets the text in rows of its width, a live status, and the outcome with a mark."""
    given = json.dumps({"tokens": 40, "interval_ms": 20})
    ours, theirs = pty.openpty()
    process = system.popen("run", "-e", "demo", "-i", given, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := _read(ours):
            shown += chunk
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "running · " in text
    assert re.search(r"✓ succeeded in [0-9.]+ s · 40 words", text)
    assert " ".join(demo_text(40).split()[:20]) in " ".join(text.split())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that nobody has the other end any more
        return b""


def test_fork_prints_the_new_threads_id(system: System):
    """Its history is there, up to the message that was named."""
    wanted = '{"tokens": 3, "interval_ms": 0, "message": "one"}'
    assert system.call("run", "-t", "original", "-e", "demo", "-i", wanted).exit_code == 0
    forked = system.call("fork", "original", "--to", "copied")
    assert (forked.exit_code, forked.stdout) == (0, "copied\n"), forked
    messages = httpx.get(f"{system.gateway.url}/v1/threads/copied/messages", trust_env=False).json()[
        "messages"
    ]
    assert [message["forked_from"]["thread_id"] for message in messages] == ["original"] * 2
    assert system.call("fork", "none").exit_code == 2


def test_runs_lists_newest_first_with_filters(system: System):
    """The table and its JSON show the same runs; thread and status narrow them; ids are never cut."""
    for word in ("one", "two"):
        given = json.dumps({"text": word})
        assert system.call("run", "-e", "demo", "-i", given, "-t", "listed").exit_code == 0
    found = [json.loads(line) for line in system.call("runs", "--json", "-t", "listed").stdout.splitlines()]
    assert [run["text"] for run in found] == ["two", "one"]
    table = system.call("runs", "--thread", "listed").stdout
    assert all(run["run_id"] in table for run in found)
    assert table.count("✓ succeeded") == 2
    assert "There are more" in system.call("runs", "-t", "listed", "-n", "1").stdout
    assert "No such runs" in system.call("runs", "-t", "listed", "--active").stdout
    assert "No such runs" in system.call("runs", "-t", "listed", "--status", "failed").stdout


def test_doctor_finds_nothing_wrong_with_a_healthy_system(system: System):
    """Everything is there: no ✗, no warning, code 0; a password would not be shown."""
    result = system.call("doctor")
    assert "✗" not in result.stdout
    assert "! " not in result.stdout
    assert "1 alive" in result.stdout
    assert "demo" in result.stdout
    assert result.exit_code == 0


def test_doctor_names_what_is_broken_and_the_remedy(system: System):
    """A policy that deletes runs, a store without append-only file, an unavailable broker."""
    with system.valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        try:
            broker = f"redis://:secret@127.0.0.1:{free_port()}/1"
            result = system.call("doctor", MAINSTEM_BROKER_URL=broker)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
    assert "✗ maxmemory-policy: allkeys-lru" in result.stdout
    assert "! durability: append-only file off" in result.stdout
    assert re.search(r"✗ connection: redis://:…@127\.0\.0\.1:\d+/1", result.stdout)
    assert "secret" not in result.stdout
    assert result.exit_code == 1
