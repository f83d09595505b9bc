"""Fetches the keys of an identity provider (RFC 7517), from an address or a file, off the event loop.

Known keys are served from memory and renewed behind the requests. A key that is not known asks the source at
most once in COOLDOWN_S, whatever tokens say: invented key ids must not become requests to the provider.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import jwt

from mainstem_api.gateway.auth.keys import RSA_BITS, Key
from mainstem_shared import errors
from mainstem_shared.store.addresses import is_loopback

logger = logging.getLogger(__name__)

REFRESH_S: Final = 300.0
"""Age at which keys are fetched again: how long a withdrawn key is still accepted."""
COOLDOWN_S: Final = 30.0
TRUST_S: Final = 86_400.0
"""How long keys outlive a source that does not answer."""
TIMEOUT_S: Final = 5.0
SIZE_LIMIT: Final = 1024 * 1024
_ALGORITHMS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""By key type. No symmetric ones: what a provider publishes is no secret."""

Source = Callable[[], bytes]


def source(given: str) -> Source:
    """Return what reads the key set from an address or a file.

    Raises:
        Misconfigured: somebody on the way could put keys of their own in.
    """
    url = urllib.parse.urlsplit(given)
    if url.scheme not in {"http", "https"}:
        return Path(given).read_bytes
    local = is_loopback(url.hostname or "")
    if url.scheme == "http" and not local:
        raise errors.Misconfigured("MAINSTEM_JWT_JWKS must be an https address, or a file.")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if local:  # a proxy of the environment cannot reach this machine's own loopback
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)

    def fetch() -> bytes:
        with opener.open(given, timeout=TIMEOUT_S) as response:
            return response.read(SIZE_LIMIT)

    return fetch


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys come from where the settings say, and from nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


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
        if self._asked_at is not None and now - self._asked_at < COOLDOWN_S:
            return None
        self._asked_at = now
        self._fetching = asyncio.create_task(self._fetch(), name="jwks")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            keys = parse(await asyncio.to_thread(self._read))
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
    for entry in entries:
        algorithm = _ALGORITHMS.get(str(entry.get("kty")))
        if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
            continue
        try:
            material = jwt.PyJWK(entry, algorithm=algorithm).key
        except jwt.PyJWTError:
            continue
        if getattr(material, "key_size", RSA_BITS) >= RSA_BITS or algorithm != "RS256":
            yield entry.get("kid"), Key(algorithm=algorithm, material=material)
