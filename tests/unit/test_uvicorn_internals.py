"""Each private name of uvicorn's that the gateway uses does, in the installed version, what is relied on."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import pytest
import uvicorn
from packaging.requirements import Requirement
from starlette.types import Receive, Scope, Send

from mainstem_api.gateway import uvicorn_internals
from mainstem_api.gateway.uvicorn_internals import Connection
from support.paths import ROOT
from support.waiting import wait_until_async

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"


class Recording(Connection):
    """Notes what uvicorn calls, and with what state."""

    made: list[Recording]

    def __init__(self, *args: Any, **options: Any) -> None:
        self.calls: list[str] = []
        super().__init__(*args, **options)
        self.made.append(self)


HOOKS = {
    "connection_made", "connection_lost", "data_received", "eof_received", "on_headers_complete", "on_header",
    "on_body", "on_message_complete", "on_response_complete", "send_400_response", "_unsupported_upgrade_warning",
}  # fmt: skip


def _recorded(name: str) -> Any:
    def call(self: Recording, *args: Any) -> Any:
        self.calls.append(name)
        return getattr(Connection, name)(self, *args)

    return call


for _name in HOOKS:
    setattr(Recording, _name, _recorded(_name))


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers at once, or never ends its answer."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok", "more_body": scope["path"] != "/"})
    if scope["path"] == "/waits":
        while (await receive())["type"] != "http.disconnect":
            pass


class Served:
    def __init__(self, server: uvicorn.Server, made: list[Recording]) -> None:
        self.server = server
        self.made = made
        self._port: int = server.servers[0].sockets[0].getsockname()[1]

    @property
    def connection(self) -> Recording:
        return self.made[-1]

    @property
    def port(self) -> int:
        return self._port

    async def talk(self, *parts: bytes) -> bytes:
        """Open a connection, send, and read until the app's answer, or the end."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            self.writer.write(part)
        try:
            return await asyncio.wait_for(self.reader.readuntil(b"ok"), 5)
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """uvicorn with our connection class."""
    async with serving() as running:
        yield running


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Served]:
    made: list[Recording] = []
    protocol = type("Noted", (Recording,), {"made": made})
    config = uvicorn.Config(
        answering,
        port=0,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
        **options,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await wait_until_async(lambda: server.started, description="uvicorn to start")
        yield Served(server, made)
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("hook", "sent"),
    [
        ("connection_made", GET),
        ("data_received", GET),
        ("on_header", GET),
        ("on_headers_complete", GET),
        ("on_message_complete", GET),
        ("on_response_complete", GET),
        ("on_body", POST + b"body"),
        ("send_400_response", GET + b"\x00\r\n\r\n"),
        ("_unsupported_upgrade_warning", GET[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        ("eof_received", GET),
        ("connection_lost", GET),
    ],
)
async def test_uvicorn_calls_what_we_override(served: Served, hook: str, sent: bytes) -> None:
    await served.talk(sent)
    await served.leave()
    await wait_until_async(lambda: hook in served.connection.calls, description="uvicorn to get there")


async def test_trailers_come_as_headers_after_the_head(served: Served) -> None:
    """`on_header` before `on_headers_complete` is a header, and after it a trailer."""
    await served.talk(GET[:-2] + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n")
    await served.leave()
    calls = [name for name in served.connection.calls if name in {"on_header", "on_headers_complete"}]
    assert calls == ["on_header", "on_header", "on_headers_complete", "on_header"]


async def test_a_cycle_knows_how_far_its_answer_is(served: Served) -> None:
    """`cycle` is the newest request; `response_complete`, `keep_alive` and `disconnected` are its state."""
    await served.talk(GET.replace(b"/ ", b"/waits "))
    first = served.connection.newest
    assert first is not None
    assert (first.response_complete, first.keep_alive, first.disconnected) == (False, True, False)
    await served.leave()
    await wait_until_async(lambda: first.disconnected, description="uvicorn to get there")
    await served.talk(GET.replace(b"1.1", b"1.0"))
    assert served.connection.newest is not None
    assert served.connection.newest.response_complete
    assert not served.connection.newest.keep_alive
    await served.leave()


async def test_a_cycle_closes_the_transport_that_it_was_given(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`end_after`: uvicorn writes to, and closes, `cycle.transport`, and looks nowhere else."""
    closed = asyncio.Event()

    class Kept:
        def __init__(self, transport: asyncio.Transport) -> None:
            self.write, self.is_closing, self.close = transport.write, transport.is_closing, closed.set

    original = Recording.on_headers_complete

    def giving(self: Recording) -> None:
        original(self)
        assert self.newest is not None
        uvicorn_internals.end_after(self.newest, Kept(self.transport))

    monkeypatch.setattr(Recording, "on_headers_complete", giving)
    await served.talk(GET.replace(b"1.1", b"1.0"))
    await asyncio.wait_for(closed.wait(), 5)
    assert not served.connection.is_closing
    await served.leave()


async def test_requests_that_wait_stand_in_the_pipeline(served: Served) -> None:
    """`pipeline` holds cycles beside their apps; what `withdraw` took out is never answered."""
    await served.talk(GET.replace(b"/ ", b"/waits ") + GET)
    connection = served.connection
    await wait_until_async(lambda: connection.pipeline, description="uvicorn to get there")
    assert [cycle for cycle, _ in connection.pipeline] == [connection.newest]
    assert connection.newest is not None
    connection.withdraw(connection.newest)
    assert not connection.pipeline
    await served.leave()


async def test_input_is_ignored_until_an_answer_is_complete(served: Served) -> None:
    """`flow.pause_reading`: nothing is received; uvicorn resumes by itself."""
    await served.talk(GET.replace(b"/ ", b"/waits "))
    connection = served.connection
    connection.ignore_input()
    served.writer.write(GET)
    await asyncio.sleep(0.3)
    assert connection.calls.count("data_received") == 1
    connection.flow.resume_reading()
    await wait_until_async(
        lambda: connection.calls.count("data_received") == 2, description="uvicorn to get there"
    )
    await served.leave()


async def test_an_idle_connection_ends_after_the_keep_alive_time() -> None:
    """`timeout_keep_alive`, its task, its handler and `_unset_keepalive_if_required`."""
    async with serving(timeout_keep_alive=0.2) as served:
        await served.talk(POST)
        connection = served.connection
        connection._unset_keepalive_if_required()
        assert connection.timeout_keep_alive_task is None
        connection.expect_request()
        assert connection.timeout_keep_alive_task is not None
        assert await asyncio.wait_for(served.reader.read(), 5) == b""
        await served.leave()


async def test_a_server_lists_its_connections_and_listeners(served: Served) -> None:
    """`server_state.connections`, `servers`, and `shutdown` of a connection, which closes an idle one."""
    await served.talk(GET)
    assert uvicorn_internals.connections(served.server) == [served.connection]
    uvicorn_internals.stop_listening(served.server, None)
    assert await asyncio.wait_for(served.reader.read(), 5) == b""
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", served.port)
    await served.leave()


async def test_a_reset_is_logged_in_these_words(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UNFINISHED` is the message for an answer without an end, the connection is closed, and the filter knows it."""
    logger = logging.getLogger("uvicorn.error")
    logger.removeFilter(uvicorn_internals._FILTER)  # of gateways before, which also set levels and hand-downs
    monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.ERROR, logger="uvicorn.error")  # also forgets which levels were on
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    await served.talk(GET.replace(b"/ ", b"/endless "))
    assert await asyncio.wait_for(served.reader.read(), 5) == b""
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert (record.name, record.msg) == ("uvicorn.error", uvicorn_internals.UNFINISHED)
    assert not uvicorn_internals._FILTER.filter(record)
    await served.leave()


def test_the_server_is_found_by_its_signal_handler() -> None:
    """`handle_exit` is a bound method, installed by `capture_signals`; `should_exit` is on its owner."""
    server = uvicorn.Server(uvicorn.Config(answering, log_config=None))
    assert uvicorn_internals.running_server() is None
    with server.capture_signals():
        assert uvicorn_internals.running_server() is server
        assert server.should_exit is False
    assert signal.getsignal(signal.SIGTERM) != server.handle_exit


# -- the bound


def test_the_installed_version_is_within_the_bound() -> None:
    """`pyproject.toml` allows no version that these tests have not seen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bound,) = [
        one for one in map(Requirement, project["optional-dependencies"]["gateway"]) if one.name == "uvicorn"
    ]
    assert bound.specifier.contains(metadata.version("uvicorn"))
    assert re.search(r"<\d", str(bound.specifier))


def test_no_other_module_reaches_into_uvicorn() -> None:
    """Beside `uvicorn_internals`, only `uvicorn.Config` and `uvicorn.Server` are used."""
    for path in (ROOT / "api").rglob("*.py"):
        if path.name != "uvicorn_internals.py":
            text = path.read_text()
            assert not re.search(r"^\s*(from uvicorn|import uvicorn\.)", text, re.MULTILINE), path
            assert set(re.findall(r"\buvicorn\.(\w+)", text)) <= {"Config", "Server"}, path
