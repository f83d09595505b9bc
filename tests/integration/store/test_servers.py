"""The suite's own server process: failure tests believe it, so it is tested like a product."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from support.paths import TESTS
from support.processes.servers import ValkeyProcess
from support.waiting import NotInTimeError, wait_until, wait_until_async


def test_data_survives_sigkill_and_restart_on_the_same_port(private_valkey: ValkeyProcess):
    """A write acknowledged a moment before SIGKILL is there after the restart, on the same port."""
    port = private_valkey.port
    with private_valkey.client() as client:
        client.set("kept", "yes")
    private_valkey.sigkill()
    with pytest.raises(redis.ConnectionError), private_valkey.client() as client:
        client.ping()
    private_valkey.start()
    with private_valkey.client() as client:
        assert client.get("kept") == "yes"
    assert private_valkey.port == port


def test_a_frozen_server_answers_nothing_until_it_is_thawed(private_valkey: ValkeyProcess):
    """Freezing keeps connections open and unanswered; thawing lets them go on."""
    with redis.Redis(port=private_valkey.port, socket_timeout=0.2, retry=None) as client:
        client.ping()
        private_valkey.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        private_valkey.thaw()
        assert client.ping()


def test_a_frozen_server_can_be_stopped(private_valkey: ValkeyProcess):
    """Cleaning up works in any state, and twice."""
    pid = private_valkey.pid
    private_valkey.freeze()
    private_valkey.stop()
    private_valkey.stop()
    assert not psutil.pid_exists(pid)


def test_the_server_dies_with_a_killed_test_run(tmp_path: Path):
    """Not even SIGKILL of the test run leaves a server behind."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from support.processes.servers import ValkeyProcess\n"
        "server = ValkeyProcess(Path(sys.argv[2])); server.start(); print(server.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(TESTS), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        server = psutil.Process(int(run.stdout.readline()))
        run.kill()
    wait_until(lambda: not server.is_running(), description="the orphaned server to be killed")


def test_the_shared_server_is_empty_for_each_test(store_url: str, broker_url: str):
    """Whatever ran before, store and broker start empty."""
    for url in (store_url, broker_url):
        with redis.Redis.from_url(url) as client:
            assert client.dbsize() == 0
            client.set("left", "behind", ex=60)


test_the_shared_server_is_empty_again = test_the_shared_server_is_empty_for_each_test


def test_waiting_returns_the_value_and_names_what_did_not_come():
    """A wait hands back the truthy value; a wait in vain says what it waited for."""
    values = iter([0, "", "ready"])
    assert wait_until(lambda: next(values), description="readiness") == "ready"
    with pytest.raises(NotInTimeError, match="the moon"):
        wait_until(lambda: False, description="the moon", timeout_s=0.02)


async def test_waiting_on_the_loop_takes_plain_and_coroutine_predicates():
    """The asynchronous wait does the same, with either kind of predicate."""

    async def ready() -> str:
        return "ready"

    assert await wait_until_async(ready, description="readiness") == "ready"
    assert await wait_until_async(lambda: 1, description="one") == 1
    with pytest.raises(NotInTimeError, match="the moon"):
        await wait_until_async(lambda: None, description="the moon", timeout_s=0.02)
