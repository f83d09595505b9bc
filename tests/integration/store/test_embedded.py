"""The embedded server: one per data directory, surviving its starter, adopted, replaced, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from mainstem_shared.store import embedded
from mainstem_shared.store.embedded import (
    EmbeddedServer,
    FileLock,
    ServerNotRunningError,
    ServerStartError,
    _server,
)
from support.waiting import wait_until

STARTER = """
import sys
from pathlib import Path
from mainstem_shared.store.embedded import EmbeddedServer
server = EmbeddedServer.start_or_adopt(Path(sys.argv[1]))
print(server.pid, server.port, server.adopted, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory (with a space in its name); whatever server runs on it afterwards is ended."""
    directory = tmp_path / "data dir"
    yield directory
    for process in servers_of(directory):
        process.kill()
        process.wait(10)


def servers_of(directory: Path) -> list[psutil.Process]:
    """Every process that serves the directory, found without any help of what is tested."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(directory / "valkey") in process.cmdline():
                found.append(process)
    return found


@pytest.fixture
def starter(data_dir: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start processes that start or adopt the server, print it, and stop it when their input ends."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def printed(process: subprocess.Popen[str]) -> tuple[int, int, str]:
    assert process.stdout is not None
    pid, port, adopted = process.stdout.readline().split()
    return int(pid), int(port), adopted


def read(server: EmbeddedServer, name: str) -> str | None:
    with redis.Redis.from_url(server.url(), decode_responses=True) as client:
        return client.get(name)


def write(server: EmbeddedServer, name: str, value: str) -> None:
    with redis.Redis.from_url(server.url()) as client:
        client.set(name, value)


def test_it_is_durable_and_never_evicts(data_dir: Path):
    """An embedded server appends each write to its file, refuses rather than evicts, and is local."""
    server = EmbeddedServer.start_or_adopt(data_dir)
    with redis.Redis.from_url(server.url(), decode_responses=True) as client:
        config = client.config_get("append*", "maxmemory-policy", "bind", "save")
    server.stop()
    assert (config["appendonly"], config["appendfsync"], config["maxmemory-policy"], config["bind"]) == (
        "yes",
        "everysec",
        "noeviction",
        "127.0.0.1",
    )
    assert not config["save"]


def test_stop_leaves_no_process_and_start_finds_data_and_port_again(data_dir: Path):
    """After a stop nothing runs; the next start serves the same data on the same port."""
    first = EmbeddedServer.start_or_adopt(data_dir)
    write(first, "kept", "yes")
    first.stop()
    assert servers_of(data_dir) == []
    assert not first.is_alive()
    second = EmbeddedServer.start_or_adopt(data_dir)
    assert (second.port, read(second, "kept"), second.adopted) == (first.port, "yes", False)
    second.stop()
    second.stop()


def test_two_concurrent_starts_make_one_server(data_dir: Path, starter: Callable[[], subprocess.Popen[str]]):
    """However many processes start at the same moment, exactly one server runs and all got that one."""
    answers = [printed(process) for process in [starter() for _ in range(4)]]
    assert len({(pid, port) for pid, port, _ in answers}) == 1
    assert sorted(adopted for *_, adopted in answers) == ["False", "True", "True", "True"]
    assert [process.pid for process in servers_of(data_dir)] == [answers[0][0]]


def test_a_killed_starter_leaves_a_server_that_the_next_one_adopts_and_stops(
    data_dir: Path, starter: Callable[[], subprocess.Popen[str]]
):
    """SIGKILL of the starter and its process group loses nothing; an adopted server stops like an own one."""
    process = starter()
    pid, port, _ = printed(process)
    assert os.getsid(pid) == pid  # not in the session that a terminal's hang-up ends
    process.kill()
    process.wait()
    server = EmbeddedServer.start_or_adopt(data_dir)
    assert (server.pid, server.port, server.adopted) == (pid, port, True)
    server.stop()
    wait_until(lambda: not servers_of(data_dir), description="the adopted server to be gone")


def test_a_killed_server_is_started_again_with_its_data(data_dir: Path):
    """SIGKILL of the server itself keeps what it acknowledged, and the port."""
    first = EmbeddedServer.start_or_adopt(data_dir)
    write(first, "kept", "yes")
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not first.is_alive(), description="the server to be dead")
    second = EmbeddedServer.start_or_adopt(data_dir)
    assert second.pid != first.pid
    assert (second.port, read(second, "kept")) == (first.port, "yes")
    first.stop()  # a handle of the dead one reaches the one that serves the directory now
    assert not second.is_alive()


def test_a_port_taken_by_somebody_else_is_left_to_them(data_dir: Path):
    """If the port of last time is in use, the server takes another one and writes that down."""
    first = EmbeddedServer.start_or_adopt(data_dir)
    first.stop()
    with socket.create_server(("127.0.0.1", first.port)):
        second = EmbeddedServer.start_or_adopt(data_dir)
        assert second.port != first.port
        assert EmbeddedServer.locate(data_dir).port == second.port
    second.stop()


def test_a_port_lost_in_the_last_moment_is_replaced(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody who takes the port between the check and the start costs another try, not the start."""
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(_server, "free_port", lambda: next(ports, None) or embedded.free_port())
        server = EmbeddedServer.start_or_adopt(data_dir)
        assert server.port != taken
        server.stop()


def test_another_server_on_the_remembered_port_is_never_mistaken_for_ours(tmp_path: Path, data_dir: Path):
    """A stale port file that points at somebody else's server leads to our own start, elsewhere."""
    theirs = EmbeddedServer.start_or_adopt(tmp_path / "theirs")
    try:
        data_dir.mkdir()
        (data_dir / "server.port").write_text(f"{theirs.port}\n")
        with pytest.raises(ServerNotRunningError):
            EmbeddedServer.locate(data_dir)
        ours = EmbeddedServer.start_or_adopt(data_dir)
        assert ours.port != theirs.port
        ours.stop()
        assert theirs.is_alive()
    finally:
        theirs.stop()


@pytest.mark.parametrize("content", ["", "no number", "70000"])
def test_a_broken_port_file_is_ignored(data_dir: Path, content: str):
    """Nonsense in the port file does not keep the server from starting."""
    data_dir.mkdir()
    (data_dir / "server.port").write_text(content)
    EmbeddedServer.start_or_adopt(data_dir).stop()


def test_a_frozen_server_is_replaced_and_keeps_its_data(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that holds the lock and answers nobody is ended and started again, with its data."""
    monkeypatch.setattr(_server, "START_TIMEOUT_S", 0.5)
    frozen = EmbeddedServer.start_or_adopt(data_dir)
    write(frozen, "kept", "yes")
    os.kill(frozen.pid, signal.SIGSTOP)
    server = EmbeddedServer.start_or_adopt(data_dir)
    assert (server.pid != frozen.pid, read(server, "kept")) == (True, "yes")
    assert not frozen.is_alive()
    server.stop()


def test_a_frozen_server_can_be_stopped(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that does not react to SIGTERM is killed."""
    monkeypatch.setattr(_server, "STOP_TIMEOUT_S", 0.5)
    server = EmbeddedServer.start_or_adopt(data_dir)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert servers_of(data_dir) == []


def test_a_lock_held_by_something_that_is_no_server_is_reported(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    """A foreign process that holds the lock is named as the cause; it is not killed."""
    monkeypatch.setattr(_server, "START_TIMEOUT_S", 0.2)
    data_dir.mkdir()
    (data_dir / "server.pid").write_text(f"{os.getpid()}\n")
    lock = FileLock(data_dir / "server.lock")
    assert lock.try_acquire()
    with pytest.raises(ServerStartError, match="unknown process"):
        EmbeddedServer.start_or_adopt(data_dir)
    lock.close()


def test_a_server_that_cannot_start_says_where_its_log_is(data_dir: Path):
    """A server that exits at once is an error that names the log, and no lock stays behind."""
    data_dir.mkdir()
    (data_dir / "valkey").mkdir()
    (data_dir / "valkey" / "appendonlydir").write_text("not a directory")
    with pytest.raises(ServerStartError, match=r"valkey\.log"):
        EmbeddedServer.start_or_adopt(data_dir)
    lock = FileLock(data_dir / "server.lock")
    assert lock.try_acquire()
    lock.close()


def test_locating_touches_nothing(tmp_path: Path):
    """Looking for a server in a directory that has none creates nothing and says what to do."""
    with pytest.raises(ServerNotRunningError, match="mainstem up"):
        EmbeddedServer.locate(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_locating_finds_the_running_server(data_dir: Path):
    """A tool that only wants the address gets the running server's."""
    server = EmbeddedServer.start_or_adopt(data_dir)
    assert EmbeddedServer.locate(data_dir).url(embedded.BROKER_DB) == server.url(1)
    server.stop()


# -- whose server it is


def test_other_users_of_the_machine_have_no_password(data_dir: Path):
    """Loopback is open to all of them: nothing is said without the password, and it stands in a file of 0600."""
    server = EmbeddedServer.start_or_adopt(data_dir)
    for url in (
        server.address,
        server.address.replace("//", "//:guess@"),
        server.address.replace("//", "//x:y@"),
    ):
        with redis.Redis.from_url(url) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
    assert (data_dir / "server.conf").stat().st_mode & 0o777 == 0o600
    assert (data_dir / "valkey").stat().st_mode & 0o077 == 0
    password = (data_dir / "server.conf").read_text().split()[1]
    assert len(password) >= 32
    command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert password.encode() not in command
    assert password not in (data_dir / "valkey.log").read_text()
    assert password not in server.address
    write(server, "k", "v")
    server.stop()
    again = EmbeddedServer.start_or_adopt(data_dir)
    assert again.url() == server.url()  # whoever was told the address may keep it
    again.stop()


def test_each_directory_has_a_password_of_its_own(tmp_path: Path):
    """What opens one server opens no other."""
    one, two = (EmbeddedServer.start_or_adopt(tmp_path / name) for name in ("one", "two"))
    mixed = one.url().replace(f":{one.port}/", f":{two.port}/")
    with redis.Redis.from_url(mixed) as other, pytest.raises(redis.AuthenticationError):
        other.ping()
    one.stop()
    two.stop()


def test_a_server_without_a_password_gets_one_when_it_is_adopted(data_dir: Path):
    """An earlier version's server goes on serving whom it serves, and nobody else any more."""
    first = EmbeddedServer.start_or_adopt(data_dir)
    with redis.Redis.from_url(first.url()) as client:
        client.ping()
        client.config_set("requirepass", "")
        (data_dir / "server.conf").unlink()
        second = EmbeddedServer.start_or_adopt(data_dir)
        assert second.pid == first.pid
        with redis.Redis.from_url(second.address) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert client.ping()
        assert read(second, "none") is None
    second.stop()
