"""`ProviderCall` is one call of a provider under the run's budgets: reserved before, settled after.

`RunContext.provider_call` makes it. The accounts are kept by the worker (`execution.accounts`); without a
worker, as in tests of engines, there are none.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from typing_extensions import TypedDict, Unpack, override

from mainstem_shared import errors
from mainstem_shared.model import prices, usage
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import rfc3339
from mainstem_shared.model.time import now_ms
from mainstem_shared.model.usage import CallUsage
from mainstem_shared.settings import Settings
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.provider_turns import NoTurns, Turns


class Used(TypedDict, total=False):
    """What engines say of a provider call: its model, and tokens by kind."""

    model: str | None
    provider: str | None
    input_tokens: int
    output_tokens: int
    total_tokens: int | None
    cached_input_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    estimated: bool


Report = Callable[[str, Used], Awaitable[CallUsage]]
"""Adds a call to the run's usage, under an id."""


class Accounts(Protocol):
    """The accounts that a run's provider calls are charged to."""

    turns: Turns
    """When those calls may be made."""

    @property
    def limits(self) -> tuple[bool, bool]:
        """Whether dollars are limited, and whether tokens are."""
        ...

    async def reserve(self, call_id: str, *, nanos: int | None, tokens: int) -> None:
        """Reserve the most that a call may cost.

        Raises:
            BudgetReached: a budget has no room for it.
        """
        ...

    def settle(self, call_id: str, used: CallUsage | None) -> None:
        """Charge what a call used; None: what was reserved."""
        ...

    def release(self, call_id: str) -> None:
        """Charge nothing for a call that was not made."""
        ...

    def charge(self, used: CallUsage) -> None:
        """Charge a call for which nothing was reserved."""
        ...


class NoAccounts:
    """No accounts: nothing is limited, nothing is charged."""

    limits = (False, False)

    def __init__(self) -> None:
        self.turns: Turns = NoTurns()

    async def reserve(self, call_id: str, *, nanos: int | None, tokens: int) -> None:
        """Reserve nothing."""

    def settle(self, call_id: str, used: CallUsage | None) -> None:
        """Charge nothing."""

    def release(self, call_id: str) -> None:
        """Charge nothing."""

    def charge(self, used: CallUsage) -> None:
        """Charge nothing."""


class ProviderCall:
    """A call of a provider that is under way. Tell what it used with `used`, as soon as the provider does."""

    def __init__(
        self, *, call_id: str, model: str, provider: str | None, max_output_tokens: int | None, report: Report
    ) -> None:
        self.call_id = call_id
        self.model = model
        self.provider = provider
        self.max_output_tokens = max_output_tokens
        """What the request must bound its answer to; None: no budget applies, and no bound was given."""
        self.usage: CallUsage | None = None
        """What it used, once that was told."""
        self.made: bool = True
        self._report = report

    async def used(self, **used: Unpack[Used]) -> None:
        """Add what the call used to the run's usage, as `RunContext.usage` does. Only once."""
        if self.usage is not None:
            raise ValueError("What this provider call used was told already; make another one.")
        named: Used = {"model": self.model, "provider": self.provider, **used}
        self.usage = await self._report(self.call_id, named)

    def not_made(self) -> None:
        """State that the provider did not take the request: it costs nothing."""
        self.made = False


class SyncProviderCall:
    """The same for engines that are plain functions."""

    def __init__(self, call: ProviderCall, wait: Callable[[Coroutine[Any, Any, None]], Any]) -> None:
        self._call = call
        self._wait = wait

    @property
    def max_output_tokens(self) -> int | None:
        """What the request must bound its answer to; None: no budget applies, and no bound was given."""
        return self._call.max_output_tokens

    def used(self, **used: Unpack[Used]) -> None:
        """Add what the call used to the run's usage. Only once."""
        self._wait(self._call.used(**used))

    def not_made(self) -> None:
        """State that the provider did not take the request: it costs nothing."""
        self._call.not_made()


class ProviderCalls:
    """The provider calls of one segment: its run's usage so far, and the accounts they are charged to."""

    def __init__(
        self, channel: Channel, settings: Settings, accounts: Accounts, spent: Mapping[str, Any] | None
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._accounts = accounts
        # The channel's fold lags behind, so what was emitted here is remembered here.
        self._spent = spent

    def of_agent(self, agent: str) -> ProviderCalls:
        """Return the same calls, in which what is added names an agent."""
        return _AgentCalls(self._channel, self._settings, self._accounts, root=self, agent=agent)

    def add(self, *, call_id: str | None = None, agent: str | None = None, **used: Unpack[Used]) -> CallUsage:
        """Add a call to the run's usage; returns it, with its cost."""
        call = usage.checked_call(**used, call_id=call_id or secrets.token_hex(8), at=rfc3339(now_ms()))
        cost = prices.table(self._settings.prices).cost(call.provider, call.model, call)
        if cost is not None:
            call = call.model_copy(update={"cost_usd": usage.decimal_text(cost)})
        if agent is not None:
            call = call.model_copy(update={"agent": agent})
        payload = usage.added(self._spent, call)
        self._channel.emit(Type.USAGE, payload)
        self._spent = {name: value for name, value in payload.items() if name != "call"}
        return call

    def charge(self, call: CallUsage) -> None:
        """Charge a call that asked no budget."""
        self._accounts.charge(call)

    def prepare(
        self,
        model: str,
        provider: str | None,
        max_output_tokens: int | None,
        *,
        emitted: Callable[[], Awaitable[None]],
    ) -> ProviderCall:
        """Return a call to be made; where budgets apply, its answer is bounded."""

        async def report(call_id: str, used: Used) -> CallUsage:
            call = self.add(call_id=call_id, **used)
            await emitted()
            return call

        if max_output_tokens is None and any(self._accounts.limits):
            max_output_tokens = self._settings.reserved_output_tokens
        return ProviderCall(
            call_id=secrets.token_hex(8),
            model=model,
            provider=provider,
            max_output_tokens=max_output_tokens,
            report=report,
        )

    @contextlib.asynccontextmanager
    async def making(
        self,
        call: ProviderCall,
        *,
        input_tokens: int,
        waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> AsyncGenerator[None]:
        """Reserve the most that a call may cost while the block makes it, then charge what it used.

        Before that the call waits for its turn, in a block of `waiting`.
        """
        output_tokens = call.max_output_tokens or 0
        tokens = input_tokens + output_tokens
        nanos = self._most_nanos(call, input_tokens, output_tokens)
        async with contextlib.AsyncExitStack() as stack:
            turn = self._accounts.turns.turn(provider=call.provider, model=call.model, tokens=tokens)
            with waiting():
                mine = await stack.enter_async_context(turn)
            try:  # after the wait: what is reserved is not there for others
                await self._accounts.reserve(call.call_id, nanos=nanos, tokens=tokens)
            except BaseException:
                mine.not_made()
                raise
            async with self._charged(call):
                yield
            if call.usage is not None:
                mine.used(call.usage.total_tokens)

    @contextlib.asynccontextmanager
    async def _charged(self, call: ProviderCall) -> AsyncGenerator[None]:
        try:
            yield
        except errors.ProviderError:
            call.made = call.usage is not None
            raise
        finally:
            if call.usage is not None or call.made:
                self._accounts.settle(call.call_id, call.usage)
            else:
                self._accounts.release(call.call_id)

    def _most_nanos(self, call: ProviderCall, input_tokens: int, output_tokens: int) -> int | None:
        """Return the most that a call may cost, in billionths of a dollar; None if that is unknown.

        Raises:
            UnknownPrice: it is unknown, and a budget in dollars applies.
        """
        most = prices.table(self._settings.prices).most(
            call.provider, call.model, input_tokens=input_tokens, output_tokens=output_tokens
        )
        if most is None and self._accounts.limits[0]:
            raise errors.UnknownPrice(model=call.model, provider=call.provider)
        return None if most is None else prices.nanos(most)


class _AgentCalls(ProviderCalls):
    """The calls that one agent of a run makes: they count as the run's."""

    def __init__(
        self, channel: Channel, settings: Settings, accounts: Accounts, *, root: ProviderCalls, agent: str
    ) -> None:
        super().__init__(channel, settings, accounts, None)
        self._root = root
        self._agent = agent

    @override
    def of_agent(self, agent: str) -> ProviderCalls:
        return self._root.of_agent(agent)

    @override
    def add(self, *, call_id: str | None = None, agent: str | None = None, **used: Unpack[Used]) -> CallUsage:
        return self._root.add(call_id=call_id, agent=agent or self._agent, **used)
