"""Fetches the keys of an identity provider (RFC 7517), from an address or a file, off the event loop.

Known keys are served from memory and renewed behind the requests. A key that is not known asks the source at
most once in COOLDOWN_S, whatever tokens say: invented key ids must not become requests to the provider.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast

import httpx
import jwt

from mainstem_api.gateway.auth.verification_keys import RSA_BITS, Key
from mainstem_shared import errors
from mainstem_shared.store.loopback import is_loopback

logger = logging.getLogger(__name__)

REFRESH_S: Final = 300.0
"""Age at which keys are fetched again: how long a withdrawn key is still accepted."""
COOLDOWN_S: Final = 30.0
RETRY_S: Final = 2.0
"""The same after a fetch that failed: a provider that is well again lets everybody in again."""
TRUST_S: Final = 86_400.0
"""How long keys outlive a source that does not answer."""
TIMEOUT_S: Final = 5.0
"""For a whole fetch, whatever it waits for: requests wait with it."""
SIZE_LIMIT: Final = 1024 * 1024
MOST_KEYS: Final = 1000
"""Entries of a document that are looked at: providers have a handful."""
_ALGORITHMS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""By key type. No symmetric ones: what a provider publishes is no secret."""

Source = Callable[[], Awaitable[bytes]]


def source(given: str) -> Source:
    """Return what reads the key set from an address or a file.

    Raises:
        Misconfigured: somebody on the way could put keys of their own in.
    """
    url = urllib.parse.urlsplit(given)
    if url.scheme not in {"http", "https"}:
        return lambda: asyncio.to_thread(_read_file, Path(given))
    local = is_loopback(url.hostname or "")
    if url.scheme == "http" and not local:
        raise errors.Misconfigured("MAINSTEM_JWT_JWKS must be an https address, or a file.")
    return _Address(
        given, trust_env=not local
    )  # a proxy of the environment cannot reach this machine's loopback


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        document = file.read(SIZE_LIMIT + 1)
    _small(document)
    return document


class _Address:
    """Fetches a document from an address: from there and nowhere else, as it stands there."""

    def __init__(self, url: str, *, trust_env: bool) -> None:
        self._url = url
        self._trust_env = trust_env
        self._trusted: ssl.SSLContext | None = None

    async def __call__(self) -> bytes:
        if self._trusted is None:  # reads files, for a while
            self._trusted = await asyncio.to_thread(ssl.create_default_context)
        # No coding: a megabyte of zeros takes a kilobyte on the way. Redirects are not followed.
        client = httpx.AsyncClient(
            verify=self._trusted,
            trust_env=self._trust_env,
            timeout=TIMEOUT_S,
            headers={"accept-encoding": "identity"},
        )
        async with client, client.stream("GET", self._url) as response:
            if response.status_code != HTTPStatus.OK or "content-encoding" in response.headers:
                raise ValueError(f"the key set's address answers {response.status_code}")
            document = bytearray()
            async for piece in response.aiter_raw():
                document += piece
                _small(document)
            return bytes(document)


def _small(document: bytes | bytearray) -> None:
    if len(document) > SIZE_LIMIT:
        raise ValueError(f"the key set is over {SIZE_LIMIT} bytes")


class KeySet:
    """Keys by id. Belongs to one event loop."""

    def __init__(self, read: Source) -> None:
        self._read = read
        self._keys: dict[str | None, Key] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> Key | None:
        """Return a key; None if the source does not have it, or was asked too shortly ago.

        Raises:
            KeysUnavailable: the source does not answer, and might have it.
        """
        key = self._known(kid)
        if key is None or self._age > REFRESH_S:
            fetching = self._refresh()
            if key is None and fetching is not None:
                await asyncio.wait({fetching})  # shared: one request's end must not cancel it for the others
                key = self._known(kid)
        if key is None and self._failed:
            raise errors.KeysUnavailable
        return key

    @property
    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else time.monotonic() - self._fetched_at

    def _known(self, kid: str | None) -> Key | None:
        if self._age > TRUST_S:
            return None
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _refresh(self) -> asyncio.Task[None] | None:
        if self._fetching is not None:
            return self._fetching
        now = time.monotonic()
        pause_s = min(RETRY_S, COOLDOWN_S) if self._failed else COOLDOWN_S
        if self._asked_at is not None and now - self._asked_at < pause_s:
            return None
        self._asked_at = now
        self._fetching = asyncio.create_task(self._fetch(), name="jwks")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                document = await self._read()
            keys = await asyncio.to_thread(parse, document)
        except Exception as error:  # noqa: BLE001 - whatever a source answers: it is asked again later
            self._failed = True
            logger.warning(
                "cannot fetch the keys for tokens", extra={"action": "jwks_failed", "error": repr(error)}
            )
        else:
            self._keys, self._fetched_at, self._failed = keys, time.monotonic(), False
        finally:
            self._fetching = None

    async def aclose(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)


def parse(document: bytes) -> dict[str | None, Key]:
    """Return the usable keys of a key set by their ids; others are passed over.

    Raises:
        ValueError: it is no key set, or has none.
    """
    found = dict(_usable(json.loads(document)["keys"]))
    if not found:
        raise ValueError("no usable key")
    return found


def _usable(entries: Iterable[Any]) -> Iterable[tuple[str | None, Key]]:
    malformed: list[Exception] = []
    for entry in itertools.islice(entries, MOST_KEYS):
        try:
            key = _key(entry)
        except Exception as error:  # noqa: BLE001 - whatever an entry is: the others are still good
            malformed.append(error)
        else:
            if key is not None:
                yield cast("str | None", entry.get("kid")), key
    if malformed:  # one line, however many there are: a provider must not fill the log
        noted = {"action": "jwks_malformed", "keys": len(malformed), "error": repr(malformed[0])}
        logger.warning("keys are malformed", extra=noted)


def _key(entry: Any) -> Key | None:
    """Return the key that an entry describes; None if it is for something else."""
    algorithm = _ALGORITHMS.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    if not isinstance(entry.get("kid"), str | None):
        raise TypeError("its id is no text")
    material = jwt.PyJWK(entry, algorithm=algorithm).key
    strong = getattr(material, "key_size", RSA_BITS) >= RSA_BITS or algorithm != "RS256"
    return Key(algorithm=algorithm, material=material) if strong else None
