"""`mainstem worker`, `gateway` and `flower` start one process each, as `mainstem up` does.

They are also what a Procfile, a container or a service manager runs. Where store and broker are stands in the
environment afterwards, so that what is started here has one place to look.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import time
from enum import StrEnum
from types import FrameType
from typing import Annotated, Any, Final

import typer

from mainstem_api.stack import hold_tether
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_shared.store.embedded import ServerNotRunningError
from mainstem_shared.store.loopback import is_loopback

SERVER_PATIENCE_S: Final = 30.0
"""A process manager starts all processes at once: the embedded server may need a moment."""
TETHER_MARGIN_S: Final = 5.0
TASKS_COLUMNS: Final = "uuid,state,args,kwargs,received,runtime,worker"
"""What Flower lists: run id; user and engine. Nearly all tasks have the same name."""
_POLL_S: Final = 0.1


class Pool(StrEnum):
    """How a worker executes tasks."""

    ASYNCIO = "asyncio"
    THREADS = "threads"
    PREFORK = "prefork"


def worker(
    context: typer.Context,
    *,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", "-c", min=1, help="Tasks at once.", show_default="MAINSTEM_CONCURRENCY, or cores"
        ),
    ] = None,
    pool: Annotated[
        Pool, typer.Option("--pool", "-P", help="asyncio holds thousands of runs.")
    ] = Pool.ASYNCIO,
    queues: Annotated[str | None, typer.Option("--queues", "-Q", help="Comma-separated.")] = None,
    loglevel: Annotated[str, typer.Option("--loglevel", "-l")] = "INFO",
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Celery's node name, such as w1@%h.")
    ] = None,
) -> None:
    """Run one worker process. Other options of `celery worker` may follow."""
    settings = _prepare()
    options = {
        "--pool": "custom" if pool is Pool.ASYNCIO else pool.value,
        "--concurrency": _concurrency(pool, concurrency, settings),
        "--queues": queues,
        "--loglevel": loglevel,
        "--hostname": name,
    }
    arguments = [part for option, value in options.items() if value for part in (option, value)]
    # By name: the web tier's package never imports the workers', which may not even be installed there.
    importlib.import_module("mainstem_workers.__main__").main([*arguments, *context.args])


def gateway(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="MAINSTEM_HOST")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0: any free one.", show_default="MAINSTEM_PORT")] = None,
    fd: Annotated[int | None, typer.Option(help="Serve an inherited listening socket instead.")] = None,
    access_log: Annotated[bool, typer.Option(help="Log every request.")] = False,
) -> None:
    """Run the HTTP gateway."""
    settings = _prepare(host=host, port=port)
    from mainstem_api.gateway import Server, create_app

    server = Server(create_app(settings), settings, access_log=access_log)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn handles them, and raises them again at its end
        signal.signal(number, _end_once)
    server.run(sockets=None if fd is None else [socket.socket(fileno=fd)])


def flower(
    context: typer.Context,
    *,
    port: Annotated[int | None, typer.Option(help="Its port.", show_default="MAINSTEM_FLOWER_PORT")] = None,
) -> None:
    """Run Flower. Its own options may follow, and its FLOWER_ variables hold."""
    settings = _prepare(flower_port=port)
    os.environ.setdefault("FLOWER_TASKS_COLUMNS", TASKS_COLUMNS)
    import flower.command
    from celery import current_app
    from celery.bin.celery import celery

    # Flower looks its handler up when it starts. Its own one ends in a traceback when the signal comes twice,
    # as it does after Ctrl-C: once from the terminal, once from the supervisor.
    flower.command.sigterm_handler = _end_once
    signal.signal(signal.SIGINT, _end_once)
    _guard_metrics()
    if not _asks_who_comes(context.args):
        _guard_hosts(settings)
    broker = endpoints.celery_broker(endpoints.broker_url(settings))
    # Only the address is an option of the command; the app that it works on is the process's default.
    configuration: Any = current_app.conf
    configuration.update(broker_transport_options=broker.transport_options, broker_use_ssl=broker.use_ssl)
    celery.main(
        # The broker's address may hold a password: it is passed inside the process, no process list shows it.
        args=[
            f"--broker={broker.url}",
            "flower",
            f"--address={_flower_address(settings, context.args)}",
            f"--port={settings.flower_port}",
            *context.args,
        ],
        prog_name="mainstem",
    )


def _flower_address(settings: Settings, arguments: list[str]) -> str:
    """Return where Flower listens: beyond this machine only if it asks who comes. It can end any run."""
    if _asks_who_comes(arguments) or is_loopback(settings.host):
        return settings.host
    print("Flower has no password (FLOWER_BASIC_AUTH): it listens on 127.0.0.1 only.", flush=True)
    return "127.0.0.1"


def _asks_who_comes(arguments: list[str]) -> bool:
    asks = any(os.environ.get(f"FLOWER_{name}") for name in ("BASIC_AUTH", "AUTH"))
    return asks or any(
        argument.startswith(("--basic-auth", "--basic_auth", "--auth")) for argument in arguments
    )


def _guard_hosts(settings: Settings) -> None:
    """Have a Flower without a password serve this machine's own names only, as the gateway does.

    A name that somebody made to lead to loopback would let any page in a browser here end any run.
    """
    from flower.app import Flower
    from tornado.web import RequestHandler

    from mainstem_api.gateway.middleware.trusted_hosts import is_own_host

    class Misdirected(RequestHandler):
        def check_xsrf_cookie(self) -> None:
            """Nothing is done for this request, whoever makes it."""

        def prepare(self) -> None:
            self.set_status(421)
            answer: Any = self  # Tornado's `finish` takes dictionaries of anything
            answer.finish("Without a password (FLOWER_BASIC_AUTH) Flower is served under own names only.\n")

    find_handler = Flower.find_handler

    def find_own(self: Any, request: Any, **options: Any) -> Any:
        hosts = request.headers.get_list("host")
        if len(hosts) == 1 and is_own_host(hosts[0], settings.host):
            return find_handler(self, request, **options)
        return self.get_handler_delegate(request, Misdirected)

    Flower.find_handler = find_own


def _prepare(**options: str | int | None) -> Settings:
    """Return the settings, with the addresses of a running server and the options that were given in them."""
    _take_signals()
    settings = Settings(**{name: value for name, value in options.items() if value is not None})  # type: ignore[arg-type]
    hold_tether(grace_s=settings.drain_s + TETHER_MARGIN_S)
    deadline = time.monotonic() + SERVER_PATIENCE_S
    while True:
        try:
            os.environ["MAINSTEM_REDIS_URL"] = endpoints.store_url(settings)
            os.environ["MAINSTEM_BROKER_URL"] = endpoints.broker_url(settings)
        except ServerNotRunningError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
        else:
            return Settings(**settings.model_dump(include=settings.model_fields_set, exclude_none=True))


def _guard_metrics() -> None:
    """Ask for Flower's own password, if it has one, at /metrics too: it names every task and worker."""
    import flower.urls
    from flower.views.monitor import Metrics
    from tornado.web import authenticated

    class GuardedMetrics(Metrics):
        get = authenticated(Metrics.get)  # pyright: ignore[reportAssignmentType] - tornado's decorator is vague

    handlers = flower.urls.handlers
    for number, handler in enumerate(handlers):
        if isinstance(handler, tuple) and handler[1] is Metrics:
            handlers[number] = (handler[0], GuardedMetrics)


def _take_signals() -> None:
    """Until somebody else handles them, after a second of imports, signals end the process quietly."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the supervisor held it back so far


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Nothing has begun; an exception could end up in somebody's import, or be lost in a callback."""
    del number, frame
    os._exit(0)


def _end_once(number: int, frame: FrameType | None) -> None:
    del number, frame
    for ending in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN: if the second signal is pending already, Python prints "ignored due to race condition".
        signal.signal(ending, _take_no_notice)
    raise SystemExit(0)


def _take_no_notice(number: int, frame: FrameType | None) -> None:
    """Ignore a signal that came twice: from the terminal to the whole group, and from the supervisor."""
    del number, frame


def _concurrency(pool: Pool, given: int | None, settings: Settings) -> str | None:
    """A process each is too much for the runs an event loop holds: prefork's default stays Celery's."""
    if given is None and pool is Pool.PREFORK:
        return str(os.cpu_count() or 1)
    return str(given or settings.concurrency)
