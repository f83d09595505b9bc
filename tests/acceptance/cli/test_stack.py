"""`mainstem up` and `make run` as an operator sees them: start, crash, kill, start again, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from support.clients.raw_http import LONG, Client, text_of
from support.engines.demowords import demo_text
from support.processes.stacks import PROGRAM, StackProcess
from support.requiring import require
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

START_S = 15
STOP_S = 20
PATIENCE_S = 60
"""On a machine that others use too. What a start and a stop may take is tested once, where they do not."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[StackProcess]:
    """A stack of this test's own; not started yet."""
    with StackProcess(tmp_path) as stack:
        yield stack


def gone(stack: StackProcess) -> bool:
    return not stack.alive()


def busy() -> bool:
    """Whether others use this machine too: then the time that something took says nothing."""
    return os.getloadavg()[0] > 2 * (os.cpu_count() or 1)


def flower_answers(stack: StackProcess) -> bool:
    try:
        return httpx.get(stack.url("Flower") + "/healthcheck", trust_env=False).text == "OK"
    except httpx.TransportError:  # it does not listen yet
        return False


def test_it_starts_runs_and_stops(tmp_path: Path):
    """Ready within 15 s, one group (the server apart), two workers, gone after SIGTERM."""
    with StackProcess(tmp_path, MAINSTEM_WORKERS="2") as stack:
        took_s = stack.start().wait_ready()
        assert took_s < START_S or busy(), took_s
        assert stack.get("/readyz") == 200
        server = stack.find("valkey-server")
        assert len(server) == 1
        others = [process for process in stack.alive() if process not in server]
        assert {os.getpgid(process.pid) for process in others} == {stack.pid}
        assert os.getsid(server[0].pid) == server[0].pid
        assert len(stack.find("mainstem worker")) == 2
        assert len(others) == 5  # the supervisor, two workers, gateway, Flower
        wait_until(lambda: flower_answers(stack), description="Flower to answer", timeout_s=PATIENCE_S)
        begun = time.monotonic()
        stack.signal(signal.SIGTERM)
        assert stack.wait_end(PATIENCE_S) == 0
        assert gone(stack)
        assert time.monotonic() - begun < STOP_S or busy()


def test_ctrl_c_ends_everything_quietly(stack: StackProcess):
    """SIGINT to the whole group, then SIGTERM, ends everything, with no traceback on the way."""
    stack.start().wait_ready()
    wait_until(
        lambda: "worker1@" in stack.log and " ready." in stack.log,
        description="the worker",
        timeout_s=PATIENCE_S,
    )
    stack.signal(signal.SIGINT, group=True)
    stack.signal(signal.SIGTERM, group=True)
    assert stack.wait_end(PATIENCE_S) == 0
    assert gone(stack)
    assert "Traceback" not in stack.log.partition("stopping …")[2]


def test_ctrl_c_during_the_start_is_quiet(stack: StackProcess):
    """SIGINT to the whole group while the children import their modules: all end, with no traceback."""
    stack.start()
    wait_until(lambda: stack.find("mainstem flower"), description="the last child", timeout_s=PATIENCE_S)
    stack.signal(signal.SIGINT, group=True)
    assert stack.wait_end(PATIENCE_S) == 0
    assert gone(stack)
    assert "Traceback" not in stack.log


def test_a_second_start_says_so_and_leaves_the_first_alone(stack: StackProcess):
    """On a directory that is in use, `mainstem up` names the stack that has it and stops with an error."""
    stack.start().wait_ready()
    before = {process.pid for process in stack.alive()}
    second = subprocess.run(
        [PROGRAM, "up"], cwd=stack.directory, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert second.returncode == 1
    assert f"already runs on {stack.data} (process {stack.pid}, {stack.url('Gateway')})" in second.stderr
    assert {process.pid for process in stack.alive()} == before
    assert stack.get("/readyz") == 200


def test_whatever_dies_is_started_again(stack: StackProcess):
    """A killed worker, gateway, Flower and server come back; the gateway's port never refuses."""
    stack.start().wait_ready()
    with redis.Redis.from_url(stack.url("Valkey")) as client:
        client.set("kept", "yes")
    for name in ("mainstem worker", "mainstem gateway", "mainstem flower", "valkey-server"):
        (victim,) = stack.find(name)
        victim.kill()
        wait_until(
            lambda name=name, victim=victim: [p for p in stack.find(name) if p != victim],
            description=f"another {name}",
            timeout_s=PATIENCE_S,
        )
    assert "ended with SIGKILL; starting it again in 0.5 s" in stack.log
    assert stack.get("/healthz") == 200  # waits in the socket the supervisor holds, instead of failing
    wait_until(
        lambda: stack.get("/readyz") == 200,
        description="the gateway to reach the store",
        timeout_s=PATIENCE_S,
    )
    with redis.Redis.from_url(stack.url("Valkey")) as client:
        assert client.get("kept") == b"yes"


def test_a_killed_supervisor_takes_its_children_but_not_the_server(stack: StackProcess):
    """After SIGKILL of the supervisor its children end by themselves; the next start adopts the server."""
    stack.start().wait_ready()
    (server,) = stack.find("valkey-server")
    with redis.Redis.from_url(stack.url("Valkey")) as client:
        client.set("kept", "yes")
    stack.signal(signal.SIGKILL)
    stack.wait_end(PATIENCE_S)
    wait_until(
        lambda: stack.alive() == [server], description="all but the server to end", timeout_s=PATIENCE_S
    )
    stack.start().wait_ready()
    assert [process.pid for process in stack.find("valkey-server")] == [server.pid]
    with redis.Redis.from_url(stack.url("Valkey")) as client:
        assert client.get("kept") == b"yes"
    stack.signal(signal.SIGTERM)
    assert stack.wait_end(PATIENCE_S) == 0
    assert gone(stack)


def test_runs_survive_the_end_of_everything(tmp_path: Path):
    """After SIGKILL of all processes a start finds its runs; what ran is settled; SIGINT to the group ends it."""
    with StackProcess(tmp_path, MAINSTEM_LEASE_S="2", MAINSTEM_SWEEP_S="1") as stack:
        stack.start().wait_ready()
        client = Client(stack)
        with client.http:
            done = client.finished(client.start({"tokens": 10, "interval_ms": 1}))
            running = client.streaming(client.start(LONG))
        for process in stack.alive():
            process.kill()
        stack.wait_end(PATIENCE_S)
        stack.start().wait_ready()
        client = Client(stack)
        with client.http:
            assert client.get(done["run_id"]) == done
            assert text_of(client.events(done["run_id"])) == done["text"]
            lost = client.finished(running["run_id"])
        assert (lost["status"], lost["reason"]) == ("failed", "worker_lost")
        assert lost["text"].startswith(running["text"])
        assert demo_text(3000).startswith(lost["text"])
        stack.signal(signal.SIGINT, group=True)
        assert stack.wait_end(PATIENCE_S) == 0
        assert stack.alive() == []


@pytest.mark.parametrize("variable", ["MAINSTEM_PORT", "MAINSTEM_FLOWER_PORT"])
def test_a_port_in_use_is_an_error_that_names_the_setting(tmp_path: Path, variable: str):
    """A port that is taken ends the start with the variable to change; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = str(squatter.getsockname()[1])
        with StackProcess(tmp_path, **{variable: port}) as stack:
            assert stack.start().wait_end(PATIENCE_S) == 1
            assert f"set {variable} to another one" in stack.log
            assert gone(stack)


def test_with_addresses_given_no_server_is_started(tmp_path: Path, store_url: str, broker_url: str):
    """MAINSTEM_REDIS_URL and MAINSTEM_BROKER_URL replace the embedded server."""
    addresses = {"MAINSTEM_REDIS_URL": store_url, "MAINSTEM_BROKER_URL": broker_url}
    with StackProcess(tmp_path, **addresses) as stack:
        stack.start()
        wait_until(
            lambda: "Mainstem is ready." in stack.log,
            description="the stack to be ready",
            timeout_s=PATIENCE_S,
        )
        assert stack.find("valkey-server") == []
        stack.signal(signal.SIGTERM)
        assert stack.wait_end(PATIENCE_S) == 0
        assert gone(stack)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_make_takes_the_stack_with_it(tmp_path: Path, number: signal.Signals):
    """A signal to `make` alone ends the stack too, whatever make does with it."""
    (tmp_path / "Makefile").write_text(f"run:\n\t@exec {PROGRAM} up\n")
    with StackProcess(tmp_path, command=("make", "run")) as stack:
        require(Path("/proc/self/status").exists(), "needs /proc to look at make")
        stack.start().wait_ready()
        stack.signal(number)
        stack.wait_end(PATIENCE_S)
        wait_until(lambda: gone(stack), description="the stack to end", timeout_s=PATIENCE_S)


def test_mainstem_valkey_serves_in_the_foreground(tmp_path: Path):
    """`mainstem valkey` prints its addresses, cleans up on SIGTERM, and fails when its server dies."""
    with StackProcess(tmp_path, command=(str(PROGRAM), "valkey")) as process:
        process.start()
        wait_until(
            lambda: "listening on redis://" in process.log, description="the addresses", timeout_s=PATIENCE_S
        )
        printed = subprocess.run(
            [str(PROGRAM), "addresses", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        for url in json.loads(printed.stdout).values():  # with the password: Celery alone gets in with it
            assert redis.Redis.from_url(url).ping()
        process.signal(signal.SIGTERM)
        assert process.wait_end(PATIENCE_S) == 0
        assert gone(process)
        process.start()
        wait_until(
            lambda: "listening on redis://" in process.log, description="the addresses", timeout_s=PATIENCE_S
        )
        process.find("valkey-server")[0].kill()
        assert process.wait_end(PATIENCE_S) == 1
        assert "did not start: it ended" in process.log
