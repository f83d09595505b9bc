"""`StoredTurns` has a segment's provider calls wait for their turns, which the store gives.

Every worker draws from the same pace. If the store cannot be asked, calls are made at once: the provider
judges them itself, and a run must not depend on more than it has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels
from mainstem_shared.operations import provider_limits
from mainstem_shared.transitions import Drawn, Pace
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk import provider_turns

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 1.0
"""How long the store is asked for a turn before the call is made without one."""
LONGEST_MS: Final = 24 * 3_600_000
"""No provider shuts a pace for longer, whatever it says."""


class StoredTurns:
    """Gives the provider calls of one segment their turns."""

    def __init__(self, runtime: Runtime, run_id: str) -> None:
        self._runtime = runtime
        self._run_id = run_id

    @contextlib.asynccontextmanager
    async def turn(
        self, *, provider: str | None, model: str, tokens: int
    ) -> AsyncGenerator[provider_turns.Turn]:
        """Wait for a call's turn, then let the block make it; shut the pace if the provider says so.

        Raises:
            ProviderError: it is shut for longer than a call may wait.
        """
        pace = provider_limits.pace_of(self._runtime.settings, provider, model)
        turn = _Turn(self._runtime, pace, run_id=self._run_id, model=model, tokens=tokens)
        await turn.wait()
        try:
            yield turn
        except Exception as error:
            if wait_s := provider_turns.told_wait_s(error):
                await turn.shut(wait_s)
            raise


class _Turn:
    def __init__(self, runtime: Runtime, pace: Pace, *, run_id: str, model: str, tokens: int) -> None:
        self._runtime = runtime
        self._store = runtime.store
        self._pace = pace
        self._run_id = run_id
        self._model = model
        self._tokens = tokens
        self._drawn: Drawn | None = None

    async def wait(self) -> None:
        """Return when the call may be made."""
        try:
            drawn = await self._draw("")
            if drawn.wait_ms > 0 or drawn.closed:
                await self._wait(drawn)
        except errors.StoreUnavailable:
            logger.warning("a provider is called without a turn", extra=self._noted("turn_unknown"))
        except asyncio.CancelledError:
            self.not_made()
            raise

    async def _wait(self, drawn: Drawn) -> None:
        began = time.monotonic()
        self._runtime.waiting_for_providers.add(self)
        try:
            while drawn.wait_ms > 0 or drawn.closed:
                if drawn.closed:
                    raise _left_alone(drawn.wait_ms / 1000)
                noted = self._noted("waiting_for_provider") | {"wait_s": drawn.wait_ms / 1000}
                logger.info("waiting for the provider", extra=noted)
                await asyncio.sleep(drawn.wait_ms / 1000)
                drawn = await self._draw(drawn.closures)
        finally:
            self._runtime.waiting_for_providers.discard(self)
            metrics.PROVIDER_WAIT.labels(labels.model(self._model)).observe(time.monotonic() - began)

    async def _draw(self, known: str) -> Drawn:
        drawn = await transitions.draw(
            self._store, self._pace, tokens=self._tokens, known=known, patience_s=PATIENCE_S
        )
        self._drawn = None if drawn.closed else drawn
        return drawn

    def used(self, tokens: int | None) -> None:
        """Correct how many tokens were drawn, beside the engine."""
        if tokens is not None and self._pace.tokens is not None and tokens != self._tokens:
            self._correct(tokens=tokens - self._tokens)

    def not_made(self) -> None:
        """Give back what was drawn, beside the engine."""
        if self._pace.requests is not None or self._pace.tokens is not None:
            self._correct(requests=-1, tokens=-self._tokens)

    def _correct(self, *, requests: int = 0, tokens: int) -> None:
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            self._runtime.spawn(
                self._quietly(
                    transitions.correct(
                        self._store, self._pace, known=drawn.closures, requests=requests, tokens=tokens
                    )
                )
            )

    async def shut(self, wait_s: float) -> None:
        """Let nobody call the provider until it wants to be called again."""
        for_ms = math.ceil(min(wait_s * 1000, LONGEST_MS))
        logger.warning(
            "the provider wants to be left alone", extra=self._noted("provider_shut") | {"wait_s": wait_s}
        )
        await self._quietly(transitions.shut(self._store, self._pace, for_ms=for_ms, patience_s=PATIENCE_S))

    async def _quietly(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except errors.MainstemError:
            logger.warning("a provider's pace is not up to date", extra=self._noted("pace_lags"))

    def _noted(self, action: str) -> dict[str, Any]:
        return {"action": action, "run_id": self._run_id, "model": self._model}


def _left_alone(for_s: float) -> errors.ProviderError:
    return errors.ProviderError(
        f"The provider wants to be left alone for {math.ceil(for_s)} s more.",
        retryable=False,
        status=429,
        retry_after_s=for_s,
    )
