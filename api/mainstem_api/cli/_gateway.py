"""Calls the gateway's HTTP interface for the command line: requests, problem documents, event streams."""

from __future__ import annotations

import ipaddress
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import httpx
from httpx_sse import EventSource, ServerSentEvent

from mainstem_shared.settings import Settings

CONNECT_TIMEOUT_S: Final = 5.0
REPLY_TIMEOUT_S: Final = 30.0
_NO_CONTENT: Final = 204
SILENCE_S: Final = 45.0
"""A stream carries a heartbeat every 15 s; one that is silent for three of them is dead."""


class GatewayError(Exception):
    """The gateway refused: its problem document's `code` and words."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed shortly."""
        return self.status in (429, 502, 503, 504)


class UnreachableError(Exception):
    """No gateway answers, or the connection broke."""


class Gateway:
    """A client of one gateway. Use it as a context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        timeout = httpx.Timeout(REPLY_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        token = Settings().token
        self._http = httpx.Client(
            base_url=self.url,
            headers={} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"},
            timeout=timeout,
            # A proxy of the environment cannot reach this machine's own loopback.
            trust_env=not _is_loopback(self.url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def start(self, thread_id: str, body: dict[str, Any], *, idempotency_key: str) -> dict[str, Any]:
        """Start a run; returns it."""
        path = f"/v1/threads/{_segment(thread_id)}/runs"
        return self._json("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run as of now."""
        return self._json("GET", f"/v1/runs/{_segment(run_id)}")

    def fork(self, thread_id: str, body: dict[str, Any], *, idempotency_key: str) -> dict[str, Any]:
        """Fork a thread; returns the new one's id, last message and last run."""
        path = f"/v1/threads/{_segment(thread_id)}/fork"
        return self._json("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})

    def abort(self, run_id: str, *, wait_s: float) -> dict[str, Any]:
        """Stop a run; returns the run, the outcome and what was reached."""
        path = f"/v1/runs/{_segment(run_id)}/abort"
        timeout = httpx.Timeout(REPLY_TIMEOUT_S + wait_s, connect=CONNECT_TIMEOUT_S)
        return self._json("POST", path, params={"wait": wait_s}, timeout=timeout)

    def resume(self, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Decide what a paused run waits for; returns the run."""
        return self._json("POST", f"/v1/runs/{_segment(run_id)}/resume", json=body)

    def send_input(self, run_id: str, text: str, *, input_id: str | None) -> dict[str, Any]:
        """Say something to a run at work; returns the receipt."""
        body = {"text": text} | ({"input_id": input_id} if input_id else {})
        return self._json("POST", f"/v1/runs/{_segment(run_id)}/input", json=body)

    def runs(self, *, thread_id: str | None, **query: str | int | None) -> dict[str, Any]:
        """Return one page of runs, newest first."""
        path = "/v1/runs" if thread_id is None else f"/v1/threads/{_segment(thread_id)}/runs"
        return self._json("GET", path, params={k: v for k, v in query.items() if v is not None})

    def details(self, run_id: str) -> dict[str, Any]:
        """Return what happened to a run."""
        return self._json("GET", f"/v1/runs/{_segment(run_id)}/details")

    def overview(self, **query: str | int | None) -> dict[str, Any]:
        """Return runs without their content."""
        return self._json("GET", "/v1/overview", params={k: v for k, v in query.items() if v is not None})

    def usage(self, *, user: str | None, days: int) -> dict[str, Any]:
        """Return what provider calls cost, by day."""
        params = {"days": days} | ({} if user is None else {"user": user})
        return self._json("GET", "/v1/usage", params=params)

    def callbacks(self) -> dict[str, Any]:
        """Return the callbacks that are not delivered."""
        return self._json("GET", "/v1/callbacks")

    def resend_callbacks(self, run_id: str) -> dict[str, Any]:
        """Have whoever is to be told of a run told once more."""
        return self._json("POST", f"/v1/runs/{_segment(run_id)}/callbacks/resend")

    def is_ready(self) -> bool:
        """Tell whether the gateway answers that store and broker answer."""
        with _reachable():
            return self._http.get("/readyz").is_success

    @contextmanager
    def events(self, run_id: str, *, after: str | None) -> Generator[Iterator[ServerSentEvent] | None]:
        """Open the run's event stream after a cursor; None if nothing follows, because the run is over.

        Raises:
            UnreachableError: also from the iterator, when the stream breaks off.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_TIMEOUT_S)
        path = f"/v1/runs/{_segment(run_id)}/events"
        with _reachable(), self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise _problem(response)
            yield None if response.status_code == _NO_CONTENT else EventSource(response).iter_sse()

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with _reachable():
            response = self._http.request(method, path, **options)
        if not response.is_success:
            raise _problem(response)
        try:
            return response.json()
        except ValueError as error:
            raise _not_a_gateway(response) from error


@contextmanager
def _reachable() -> Generator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise UnreachableError(str(error) or type(error).__name__) from error


def _segment(value: str) -> str:
    """Return text as one segment of a path, whatever it contains."""
    return "".join(
        c if c.isalnum() and c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in value
    )


def _problem(response: httpx.Response) -> GatewayError:
    try:
        problem = response.json()
        code, detail = problem["code"], problem.get("detail") or problem["title"]
    except (ValueError, KeyError, TypeError):
        return _not_a_gateway(response)
    return GatewayError(response.status_code, str(code), str(detail))


def _not_a_gateway(response: httpx.Response) -> GatewayError:
    words = (
        f"{response.request.url.copy_with(path='/')} answered {response.status_code}, not as a gateway does."
    )
    return GatewayError(response.status_code, "not_a_gateway", words)


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
