"""Identity providers that misbehave: no request waits for longer than a fetch may take, no bad key spoils a good one."""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mainstem_api.gateway.auth import jwks
from mainstem_shared import errors
from support.fakes.identity_provider import SETTINGS, jwk, rsa_key, token
from support.processes.gateways import GatewayThread, check_problem

KEY = jwk(rsa_key(), "k1")
DOCUMENT = json.dumps({"keys": [KEY]}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n"
TIMEOUT_S = 0.6

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(jwks, "RETRY_S", 0.1)


class Provider:
    """Answers requests as the test says; counts them."""

    def __init__(self) -> None:
        self.answer: Answer = good
        self.asked = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            await self.answer(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def good(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (len(DOCUMENT), b"") + DOCUMENT)


async def dripping_body(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (len(DOCUMENT), b""))
    await drip(writer, DOCUMENT)


async def dripping_head(writer: asyncio.StreamWriter) -> None:
    await drip(writer, HEAD % (len(DOCUMENT), b"x-a: " + b"b" * 5000 + b"\r\n"))


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    for number in range(len(data)):
        writer.write(data[number : number + 1])
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(writer: asyncio.StreamWriter) -> None:
    del writer
    await asyncio.sleep(30)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * 65536)
        await writer.drain()


async def endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-a: " + b"b" * 8000 + b"\r\n")
        await writer.drain()


@functools.cache
def packed_bomb() -> bytes:
    return gzip.compress(b" " * 200_000_000 + DOCUMENT, 1)


async def bomb(writer: asyncio.StreamWriter) -> None:
    packed = packed_bomb()
    writer.write(HEAD % (len(packed), b"content-encoding: gzip\r\n") + packed)


async def moved(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nlocation: /jwks.json\r\ncontent-length: 0\r\n\r\n")


async def moved_with_keys(writer: asyncio.StreamWriter) -> None:
    writer.write((HEAD % (len(DOCUMENT), b"location: /x\r\n")).replace(b"200 OK", b"301 Moved") + DOCUMENT)


async def failing(writer: asyncio.StreamWriter) -> None:
    writer.write((HEAD % (len(DOCUMENT), b"")).replace(b"200 OK", b"500 No") + DOCUMENT)


async def page(writer: asyncio.StreamWriter) -> None:
    body = b"<html>Sign in</html>"
    writer.write(HEAD % (len(body), b"content-type: text/html\r\n") + body)


async def deep(writer: asyncio.StreamWriter) -> None:
    body = b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    writer.write(HEAD % (len(body), b"") + body)


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % (len(DOCUMENT), b"") + DOCUMENT[:-10])


async def no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x15\x03\x01\x00\x02\x02\x16")


@asynccontextmanager
async def provided() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
    try:
        yield provider
    finally:
        server.close()


@pytest.mark.parametrize(
    "bad",
    [
        dripping_body, dripping_head, silent, endless, endless_head, bomb, moved, moved_with_keys, failing, page,
        deep, cut, no_http,
    ],
)  # fmt: skip
async def test_a_bad_provider_costs_a_request_no_more_than_a_fetch_may_take(
    bad: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is 503 for whoever needs the key, at once for all of them; and over as soon as the provider is well."""
    async with provided() as provider:
        keys = jwks.KeySet(jwks.source(provider.url))
        provider.answer = bad
        packed_bomb()  # the provider is in this loop: making it here would hold up the client
        begun, threads = time.monotonic(), threading.active_count()
        results = await asyncio.gather(*[keys.find("k1") for _ in range(20)], return_exceptions=True)
        assert time.monotonic() - begun < 10
        assert {type(one) for one in results} == {errors.KeysUnavailable}
        assert provider.asked <= 1  # by all of them together; none where a busy machine took all the time
        provider.answer = good
        monkeypatch.setattr(jwks, "TIMEOUT_S", 30.0)  # however busy this machine is
        await asyncio.sleep(0.15)
        assert await keys.find("k1") is not None
        assert threading.active_count() <= threads + 2  # none that still waits for the provider
        provider.answer = bad  # known keys are served, however the provider is
        keys._fetched_at = time.monotonic() - jwks.REFRESH_S - 1
        keys._asked_at = None
        begun = time.monotonic()
        assert await keys.find("k1") is not None
        assert time.monotonic() - begun < 10
        await keys.aclose()


async def test_nobody_waits_for_a_connection_that_is_not_made() -> None:
    """A listener whose queue is full lets connections hang; so does a network that drops packets."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        keys = jwks.KeySet(jwks.source(f"http://127.0.0.1:{full.getsockname()[1]}/"))
        begun = time.monotonic()
        with pytest.raises(errors.KeysUnavailable):
            await keys.find("k1")
        assert time.monotonic() - begun < 10
        for one in waiting:
            one.close()


@pytest.mark.parametrize(
    "odd",
    [
        "text", None, 7, [], {}, {"kty": ["RSA"]}, {"kty": "RSA"}, {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA", "kid": "x", "n": "!!!", "e": "AQAB"},
        {"kty": "RSA", "kid": "x", "n": "AQ", "e": ""},
        {"kty": "RSA", "kid": "x", "n": 5, "e": 5},
        {"kty": "RSA", "kid": "x", "n": "é", "e": "AQAB"},
        {"kty": "EC", "crv": "P-384", "kid": "p", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-256", "kid": "p", "x": "A" * 43, "y": "A" * 43},
        {"kty": "OKP", "crv": "X25519", "kid": "x", "x": "AAAA"},
        {"kty": "RSA", "kid": ["a"], "n": KEY["n"], "e": KEY["e"]},
        {"kty": "RSA", "kid": {"a": 1}, "n": KEY["n"], "e": KEY["e"]},
        {"kty": "RSA", "kid": 5, "n": KEY["n"], "e": KEY["e"]},
        {**KEY, "kid": "x", "alg": ["RS256"]},
        {**KEY, "kid": "x", "use": {}},
    ],
)  # fmt: skip
def test_a_malformed_key_spoils_no_other(odd: Any) -> None:
    """Before or after the good one: the set has the good one, and nothing else."""
    for entries in ([odd, KEY], [KEY, odd]):
        assert list(jwks.parse(json.dumps({"keys": entries}).encode())) == ["k1"]


@pytest.mark.parametrize(
    "entries",
    [[1] * 300_000, [{"kty": "RSA"}] * 60_000, [KEY] * 2000],
    ids=["numbers", "half keys", "one key"],
)
def test_a_set_of_very_many_keys_is_looked_at_in_part(
    entries: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A megabyte of entries costs as much as a thousand of them, and one line of the log."""
    document = json.dumps({"keys": [KEY, *entries]}).encode()
    began = time.process_time()
    assert list(jwks.parse(document)) == ["k1"]
    assert time.process_time() - began < 5
    assert len(caplog.records) <= 1


async def test_a_file_has_the_same_bound(tmp_path: Path) -> None:
    """A file that is no key set is refused, however large it is."""
    path = tmp_path / "keys.json"
    path.write_bytes(DOCUMENT)
    assert await jwks.KeySet(jwks.source(str(path))).find("k1") is not None
    for large in (Path("/dev/zero"), tmp_path / "large"):
        if not large.exists():
            large.write_bytes(b" " * jwks.SIZE_LIMIT + DOCUMENT)
        with pytest.raises(errors.KeysUnavailable):
            await jwks.KeySet(jwks.source(str(large))).find("k1")


async def test_a_gateway_answers_while_its_provider_drips(store_url: str, broker_url: str) -> None:
    """503 for users whose key is not known, and nothing at all for everything else."""
    async with provided() as provider:
        provider.answer = dripping_body
        settings = {**SETTINGS, "jwt_secret": None, "jwt_jwks": provider.url}
        with GatewayThread(store_url, broker_url, **settings) as gateway:
            headers = {"authorization": f"Bearer {token(key=rsa_key(), algorithm='RS256', kid='k1')}"}
            async with gateway.client() as http:
                asked = asyncio.create_task(http.get("/v1/runs", headers=headers))
                assert (await http.get("/readyz")).status_code == 200
                check_problem(await asked, 503, "keys_unavailable")
                provider.answer = good
                await asyncio.sleep(0.15)
                assert (await http.get("/v1/runs", headers=headers)).status_code == 200
