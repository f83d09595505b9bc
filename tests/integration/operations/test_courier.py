"""Receivers that hang: whoever named them, and however many, everybody else is told all the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from integration.operations.test_callbacks import end, operating, settings_for
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations import starting
from mainstem_shared.operations.courier import AT_ONCE, AT_ONCE_EACH, AT_ONCE_OF_USERS, Courier
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.fakes import webhook_receiver
from support.waiting import wait_until_async

MANY = AT_ONCE + 2
"""More than a process attempts at once."""
HANGING = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
CASES = {
    "one user, one host": (1, 1),
    "one user, many hosts": (1, 4),
    "many users, one host": (MANY, 1),
    "many users, many hosts": (MANY, 4),
}
AT_MOST = {**dict.fromkeys(CASES, AT_ONCE_EACH), "many users, many hosts": AT_ONCE_OF_USERS}


async def ended(operations: Operations, user: str, callback: dict[str, str] | None) -> str:
    """Start a run and end it; returns the index that has what is to be told of it."""
    fields = {"engine": "demo", "input": {}, **({} if callback is None else {"callback": callback})}
    request = starting.parse_request(fields)
    answer = await starting.start_run(
        operations, request, principal=Principal(user_id=user), thread_id=f"t-{user}-{callback}"
    )
    await end(operations, answer.run_id)
    return keys.run(answer.run_id).callbacks_due


@pytest.mark.parametrize("case", CASES)
async def test_receivers_that_hang_hold_up_nobody_else(store: Store, broker_url: str, case: str):
    """Each address is another one; every bound holds by itself, and the operator's webhook is told meanwhile."""
    users, hosts = CASES[case]
    async with contextlib.AsyncExitStack() as stack:
        well = await stack.enter_async_context(webhook_receiver.receiving())
        hanging = [
            await stack.enter_async_context(webhook_receiver.receiving(host)) for host in HANGING[:hosts]
        ]
        for receiver in hanging:
            receiver.may_answer.clear()
        addresses = [receiver.url(host=host) for host, receiver in zip(HANGING, hanging, strict=False)]
        named = ", ".join(url.removeprefix("http://").removesuffix("/hook") for url in addresses)
        settings = settings_for(broker_url, well, callback_hosts=named)
        informed = settings.model_copy(update={"on_run_end": well.url()})
        plain = await stack.enter_async_context(operating(store, settings))
        operations = await stack.enter_async_context(operating(store, informed))
        await store.client.hset(keys.ENGINES, "demo", "{}")
        due = [
            await ended(plain, f"user-{n % users}", {"url": f"{addresses[n % hosts]}/{n}"})
            for n in range(MANY)
        ]
        due.append(await ended(operations, "bob", None))
        courier = Courier(operations)
        stack.push_async_callback(courier.aclose)
        async with asyncio.timeout(30):
            await courier.deliver(sorted(set(due)))
        await wait_until_async(lambda: well.received, description="the operator's webhook")
        await wait_until_async(
            lambda: any(receiver.received for receiver in hanging), description="a request that hangs"
        )
        hosts_of = Counter({n: len(receiver.received) for n, receiver in enumerate(hanging)})
        assert max(hosts_of.values()) <= AT_ONCE_EACH
        assert 0 < hosts_of.total() <= AT_MOST[case]
