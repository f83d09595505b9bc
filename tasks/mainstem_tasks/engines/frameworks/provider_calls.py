"""Puts a framework's model calls inside the run's budgets, and their tokens into its usage.

A framework says when a call begins and what it used; one that is stopped before that has an estimate.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator

from mainstem_shared import errors
from mainstem_tasks.engines.assembly import estimates
from mainstem_tasks.sdk.emitter import Emitter
from mainstem_tasks.sdk.provider_calls import ProviderCall


class ModelOutput:
    """Collects a model's output during a call, to estimate its tokens if the provider does not count them."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def take(self, text: str) -> None:
        """Note a piece of an answer."""
        self._pieces.append(text)

    def tokens(self) -> int:
        """Return about how many tokens that was, and forget it."""
        said = "".join(self._pieces)
        self._pieces.clear()
        return estimates.tokens_in(said)


@contextlib.asynccontextmanager
async def model_call(
    by: Emitter,
    output: ModelOutput,
    *,
    model: str,
    provider: str | None,
    request: str,
    max_output_tokens: int | None = None,
) -> AsyncGenerator[ProviderCall]:
    """Make a model call of a run, or of one of its agents, in this block.

    `request` is about what it sends, for the reservation.

    Raises:
        BudgetReached: a budget has no room for the most that it may cost.
        UnknownPrice: a budget in dollars applies, and the model has no price.
    """
    asked = estimates.tokens_in(request)
    output.tokens()
    async with by.provider_call(
        model=model,
        provider=provider,
        input_tokens=math.ceil(asked * estimates.MARGIN),
        max_output_tokens=max_output_tokens,
    ) as call:
        try:
            yield call
        except GeneratorExit:  # nobody waits for it any more
            raise
        except BaseException:  # stopped, or broken: what was said before costs all the same
            said = output.tokens()
            if call.usage is None and said:
                with contextlib.suppress(errors.MainstemError):
                    await call.used(input_tokens=asked, output_tokens=said, estimated=True)
            elif call.usage is None:
                call.not_made()
            raise
