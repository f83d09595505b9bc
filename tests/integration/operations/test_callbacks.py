"""Who is to be told of a run's end is told: once it ended, whoever ended it, under one id, at least once."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import standardwebhooks

from mainstem_shared import errors, transitions
from mainstem_shared.model import callbacks
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending, starting
from mainstem_shared.operations.courier import Courier
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.fakes import webhook_receiver
from support.fakes.webhook_receiver import Receiver


def secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


SECRET = secret()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with webhook_receiver.receiving() as it:
        yield it


def settings_for(broker_url: str, receiver: Receiver, **more: Any) -> Settings:
    """Webhooks may go to the receiver on loopback."""
    given = {
        "callback_hosts": f"127.0.0.1:{receiver.port}",
        "callback_http": True,
        "callback_networks": "127.0.0.0/8",
        "callback_tasks": "shop.stored@orders, shop.paid",
        "webhook_secrets": SECRET,
        **more,
    }
    return Settings(broker_url=broker_url, **given)


@asynccontextmanager
async def operating(store: Store, settings: Settings) -> AsyncIterator[Operations]:
    assert settings.broker_url is not None
    publisher = CeleryPublisher(settings.broker_url.get_secret_value())
    yield Operations(store=store, settings=settings, publisher=publisher)
    publisher.close()


async def start(operations: Operations, callback: dict[str, Any] | None, thread: str = "t") -> str:
    await operations.store.client.hset(keys.ENGINES, "demo", "{}")
    fields = {"engine": "demo", "input": {}, "metadata": {"order": 7}, "if_active": "enqueue"}
    request = starting.parse_request(fields if callback is None else {**fields, "callback": callback})
    answer = await starting.start_run(
        operations, request, principal=Principal(user_id="ann"), thread_id=thread
    )
    return answer.run_id


async def end(operations: Operations, run_id: str, reason: Reason = Reason.USER_ABORT) -> None:
    settled = await ending.settle(operations, run_id, sealer="", reason=reason)
    assert settled is not None
    assert settled.mine


async def deliver(operations: Operations, run_id: str) -> None:
    courier = Courier(operations)
    await courier.deliver([keys.run(run_id).callbacks_due])
    await courier.settle()
    await courier.aclose()


async def untold(store: Store, run_id: str) -> dict[str, float]:
    listed = await store.client.zrange(keys.run(run_id).callbacks_due, 0, -1, withscores=True)
    return {member.decode(): at for member, at in listed}


def messages(url: str, queue: str) -> list[tuple[dict, dict]]:
    """The messages of a queue: headers, and keyword arguments."""
    with redis.Redis.from_url(url) as client:
        raw = [json.loads(one) for one in client.lrange(queue, 0, -1)]
    return [(one["headers"], json.loads(base64.b64decode(one["body"]))[1]) for one in raw]


async def test_a_webhook_is_told_of_the_end(store: Store, broker_url: str, receiver: Receiver):
    """It gets the run, signed so that the standard's own library takes it; then nothing is left to do."""
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id = await start(operations, {"url": receiver.url()})
        await end(operations, run_id)
        await deliver(operations, run_id)
    (told,) = receiver.received
    event = standardwebhooks.Webhook(SECRET).verify(told.body, told.headers)
    assert event["id"] == told.headers["webhook-id"]
    assert event["id"].startswith(f"{run_id}.")
    assert event["type"] == "run.ended"
    assert event["data"]["run"]["status"] == event["data"]["status"] == "aborted"
    assert event["data"]["metadata"] == {"order": 7}
    assert await untold(store, run_id) == {}
    assert await store.client.exists(keys.run(run_id).callbacks) == 0


async def test_a_task_is_told_of_the_end(store: Store, broker_url: str, receiver: Receiver):
    """Its message is in the queue that the operator gave it, with the event's id as the task's, and the run's."""
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id = await start(operations, {"task": "shop.stored"})
        await end(operations, run_id)
        await deliver(operations, run_id)
    ((headers, kwargs),) = messages(broker_url, "orders")
    assert headers["task"] == "shop.stored"
    assert headers["id"] == kwargs["event"]["id"]
    assert headers["mainstem_run_id"] == run_id
    assert kwargs["event"]["data"]["run"]["run_id"] == run_id


async def test_everyone_is_told_of_every_run(store: Store, broker_url: str, receiver: Receiver):
    """MAINSTEM_ON_RUN_END needs no leave, also if only the process that ends a run has it; nobody twice."""
    settings = settings_for(broker_url, receiver, callback_hosts="", callback_networks="")
    everyone = {"on_run_end": f"shop.all, {receiver.url()}"}
    informed = settings.model_copy(update=everyone)
    async with operating(store, settings) as plain, operating(store, informed) as operations:
        run_ids = [
            await start(starter, {"task": "shop.paid"}, thread=f"t{n}")
            for n, starter in enumerate((plain, operations))
        ]
        for run_id in run_ids:
            await end(operations, run_id)
            await deliver(operations, run_id)
    told = [headers["task"] for headers, _ in messages(broker_url, "celery") if "shop" in headers["task"]]
    assert sorted(told) == ["shop.all", "shop.all", "shop.paid", "shop.paid"]
    assert len(receiver.received) == len(set(receiver.ids)) == 2


async def test_what_fails_is_tried_again_under_the_same_id(store: Store, broker_url: str, receiver: Receiver):
    """Ever later; a redirect is a failure that nobody follows; once it is told nothing is left."""
    receiver.answers = [
        b"500 Oops\r\ncontent-length: 0\r\n",
        f"302 Found\r\nlocation: {receiver.url('/other')}\r\ncontent-length: 0\r\n".encode(),
    ]
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id = await start(operations, {"url": receiver.url()})
        await end(operations, run_id)
        for pause_ms in (5_000, 10_000):
            before = now_ms()
            await deliver(operations, run_id)
            ((member, due_ms),) = (await untold(store, run_id)).items()
            assert 0.9 * pause_ms <= due_ms - before <= 1.1 * pause_ms + (now_ms() - before)
            await store.client.zadd(keys.run(run_id).callbacks_due, {member: 0})
        await deliver(operations, run_id)
    assert len(set(receiver.ids)) == 1
    assert [one.path for one in receiver.received] == ["/hook"] * 3
    assert await untold(store, run_id) == {}


async def test_nobody_is_told_whom_the_operator_does_not_allow(
    store: Store, broker_url: str, receiver: Receiver
):
    """Neither at the start, nor if the list has changed since: then it waits for one that allows it."""
    allowed = settings_for(broker_url, receiver)
    async with operating(store, allowed) as operations:
        for refused in (
            {"task": "os.system"},
            {"url": "https://example.com/"},
            {"url": receiver.url(host="localhost")},
        ):
            with pytest.raises(errors.CallbackNotAllowed):
                await start(operations, refused)
        run_id = await start(operations, {"url": receiver.url()})
        await end(operations, run_id)
    ((member, _),) = (await untold(store, run_id)).items()
    for change in ({"callback_hosts": ""}, {"callback_http": False}, {"callback_networks": ""}):
        async with operating(store, allowed.model_copy(update=change)) as operations:
            await store.client.zadd(keys.run(run_id).callbacks_due, {member: 0})
            await deliver(operations, run_id)
    assert receiver.received == []
    (due,) = await transitions.read_due(store, [callbacks.parse_delivery(member)])
    assert due is not None
    assert due.attempts.count == 3
