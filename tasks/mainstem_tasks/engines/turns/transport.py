"""Carries requests to providers by their official SDKs, and turns all failures into `ProviderError`.

An SDK sends the request and judges the status; it is imported at the first run, in a thread, because that
takes most of a second. How an answer's bytes are read is in `reading`, what they mean for a run in `loop`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import re
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import Any, Final

from mainstem_shared import errors
from mainstem_tasks.engines.turns import failures
from mainstem_tasks.sdk.provider_turns import retry_after_s

CONNECT_S: Final = 10.0
WRITE_S: Final = 30.0
FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 8.0
LONGEST_RETRY_AFTER_S: Final = 60.0
"""A provider that wants to be left alone for longer has failed, as far as this run is concerned."""
_SHOWN_CHARACTERS: Final = 500  # of a provider's message: some answer with a page of HTML
_TRANSIENT: Final = frozenset({408, 409, 429})
_CAUSES: Final = 4  # of a broken connection, as far as they are told
_KEY_LIKE: Final = re.compile(r"\b(sk|pk|key)-[\w*.-]{4,}")  # OpenAI's 401 quotes the key, half masked

_NAMES: Final[Mapping[str, str]] = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "google",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.groq.com": "groq",
    "openrouter.ai": "openrouter",
}
"""Hosts by what the price table calls them."""

Clients = dict[tuple[str, str, str], Any]
# By loop: a client's connections belong to the loop that opened them.
_clients: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Clients]] = weakref.WeakKeyDictionary()


class ProviderClient:
    """Calls one provider by its SDK's client, which all runs of this loop share, and hides the API key."""

    def __init__(self, sdk: ModuleType, client: Any, secret: str) -> None:
        self.client = client
        self._sdk: Any = sdk
        self._secret = secret

    @classmethod
    async def create(
        cls, sdk: str, make: Callable[[Any], Any], *, url: str, secret: str, resource: str
    ) -> ProviderClient:
        """Return the client of an address; `make` makes the SDK's if this loop has none yet.

        `resource`: the module of the SDK that it would import at the first request.
        """
        module = await asyncio.to_thread(_import, sdk, resource)
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        named = (sdk, url, secret)
        if named not in clients:
            clients[named] = make(module)
        return cls(module, clients[named], secret)

    @property
    def provider(self) -> str:
        """A known provider's name, else the host's."""
        host = str(self.client.base_url.host)
        return _NAMES.get(host, host)

    async def stream(
        self, send: Callable[[Any], AbstractAsyncContextManager[Any]], *, silence_s: float
    ) -> AsyncGenerator[bytes]:
        """Yield the body of one streamed answer as it arrives. `silence_s`: the longest wait.

        `send` gets the timeout, and sends the request when it is entered. The first piece is empty: it says
        that the provider took the request. The SDKs' own reading of streams is too strict for what compatible
        servers send.

        Raises:
            ProviderError: it refused, failed or fell silent; `retryable(error)` tells which.
        """
        timeout = self._sdk.Timeout(connect=CONNECT_S, read=silence_s, write=WRITE_S, pool=None)
        failing_clearly = _FailingClearly(self._sdk, self.presentable, silence_s)
        with failing_clearly:
            response = await send(timeout).__aenter__()
        try:
            yield b""  # the request was taken, whatever comes of it
            arriving = aiter(response.iter_bytes())
            while True:
                # Only the SDK's errors are the provider's: what the consumer raises passes untouched.
                with failing_clearly:
                    try:
                        data = await anext(arriving)
                    except StopAsyncIteration:
                        return
                yield data
        finally:
            await response.close()

    def presentable(self, text: str) -> str:
        """Return a provider's words without our key, and not too many of them."""
        if self._secret:
            text = text.replace(self._secret, "[key]")
        text = _KEY_LIKE.sub("[key]", " ".join(text.split()))
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


class _FailingClearly(contextlib.AbstractContextManager[None]):
    """Turns what the SDK and its transport raise into `ProviderError`.

    `from None` throughout: the originals' texts may quote the key.
    """

    def __init__(self, sdk: Any, presentable: Callable[[str], str], silence_s: float) -> None:
        self._sdk = sdk
        self._presentable = presentable
        self._silence_s = silence_s

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case self._sdk.APIStatusError():
                raise self._refused(error) from None
            case self._sdk.APITimeoutError():
                raise self._silent(error.__cause__ or error) from None
            case self._sdk.APIConnectionError():
                raise self._disconnected(error.__cause__ or error) from None
            case Exception():  # the transport's own, while the body arrives
                late = "Timeout" in type(error).__name__
                raise (self._silent(error) if late else self._disconnected(error)) from None
            case _:
                pass

    def _refused(self, error: Any) -> errors.ProviderError:
        status, headers = error.status_code, error.response.headers
        said = self._presentable(failures.words_of(error.body) or error.response.reason_phrase)
        wait_s = retry_after_s(headers)
        transient = status in _TRANSIENT or status >= 500
        codes = [code for code in failures.codes_of(error.body) if not code.isdecimal()]
        lasting = status < 500 and any(map(failures.lasts, codes))
        hopeless = lasting or (wait_s or 0) > LONGEST_RETRY_AFTER_S
        vetoed = headers.get("x-should-retry", "").lower() == "false"
        return _failure(
            f"The provider answered {status}: {said}",
            status=status,
            retryable=transient and not hopeless and not vetoed,
            retry_after_s=None if lasting else wait_s,  # a quota that stays is this key's, not for now
        )

    def _silent(self, error: BaseException) -> errors.ProviderError:
        if type(error).__name__ == "ConnectTimeout":
            return _failure(f"The provider could not be reached within {CONNECT_S:g} s.")
        return _failure(f"The provider was silent for {self._silence_s:g} s.")

    def _disconnected(self, error: BaseException) -> errors.ProviderError:
        """Find words: a reset often has none of its own, only its causes have."""
        said: list[str] = []
        cause: BaseException | None = error
        while cause is not None and len(said) < _CAUSES:
            said.append(str(cause) or type(cause).__name__)
            cause = cause.__cause__ or cause.__context__
        why = self._presentable(": ".join(dict.fromkeys(said)))
        return _failure(f"The connection to the provider failed: {why}")


def _failure(
    message: str,
    *,
    retryable: bool = True,
    status: int | None = None,
    retry_after_s: float | None = None,
) -> errors.ProviderError:
    return errors.ProviderError(message, retryable=retryable, status=status, retry_after_s=retry_after_s)


def retryable(error: errors.ProviderError) -> bool:
    """Tell whether the same request may succeed when it is sent again."""
    return bool(error.fields.get("retryable"))


def delay_s(attempt: int, error: errors.ProviderError) -> float:
    """Return how long to wait after failed attempt number `attempt` (from 1): as told, else ever longer."""
    told = error.fields.get("retry_after_s")
    if isinstance(told, float):
        return told * random.uniform(1.0, 1.1)  # never earlier; apart, because everybody was told the same
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


async def aclose() -> None:
    """Close the clients of this loop."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.close()


def _import(sdk: str, resource: str) -> ModuleType:
    importlib.import_module(resource)
    return importlib.import_module(sdk)
