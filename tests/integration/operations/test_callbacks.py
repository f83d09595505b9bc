"""Who is to be told of a run's end is told: once it ended, whoever ended it, under one id, at least once."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import redis
import standardwebhooks

from mainstem_shared import errors, transitions
from mainstem_shared.model import actions, callbacks
from mainstem_shared.model.contents import Content
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending, starting, undelivered_callbacks
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.courier import Courier
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import PAUSE, Operations, nobody
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.fakes import webhook_receiver
from support.fakes.webhook_receiver import Receiver
from support.models.verb_calls import without_gap
from support.processes import dying_process
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async


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
    settled = await ending.take_and_end(operations, run_id, sealer="", reason=reason)
    assert settled is not None
    assert settled.mine


async def deliver(operations: Operations, run_id: str) -> None:
    courier = Courier(operations)
    await courier.deliver([keys.run(run_id).callbacks_due])
    await courier.wait_idle()
    await courier.aclose()


async def undelivered_of(store: Store, run_id: str) -> dict[str, float]:
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
    assert await undelivered_of(store, run_id) == {}
    assert await store.client.exists(keys.run(run_id).callbacks) == 0


async def test_a_request_over_http_names_who_is_told(
    store: Store, store_url: str, broker_url: str, receiver: Receiver
):
    """The gateway's route takes `callback` as the client in Python does, and refuses what is not allowed."""
    await store.client.hset(keys.ENGINES, "demo", "{}")
    allowed = settings_for(broker_url, receiver)
    given = allowed.model_dump(exclude_unset=True, exclude={"broker_url"})
    with GatewayThread(store_url, broker_url, **given) as gateway:
        async with gateway.client() as http:
            body: dict[str, Any] = {"engine": "demo", "callback": {"url": receiver.url()}}
            started = await http.post("/v1/threads/t/runs", json=body)
            refused = await http.post("/v1/threads/u/runs", json={**body, "callback": {"task": "other"}})
        run_id = started.json()["run_id"]
        assert (refused.status_code, refused.json()["code"]) == (403, "callback_not_allowed")
        async with operating(store, allowed) as operations:
            await end(operations, run_id)
            await deliver(operations, run_id)
    assert {told.event["data"]["run_id"] for told in receiver.received} == {run_id}


async def test_openais_own_client_takes_a_webhook_of_a_response(
    store: Store, broker_url: str, receiver: Receiver
):
    """An address with `openai+` is told as OpenAI tells: its client verifies it, and knows what happened."""
    kinds = {
        Reason.COMPLETED: "response.completed",
        Reason.USER_ABORT: "response.cancelled",
        Reason.ENGINE_ERROR: "response.failed",
        Reason.CONTENT_TOO_LARGE: "response.incomplete",
    }
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        for number, (reason, kind) in enumerate(kinds.items()):
            run_id = await start(operations, {"url": f"openai+{receiver.url()}"}, thread=f"t{number}")
            await end(operations, run_id, reason)
            await deliver(operations, run_id)
            assert await undelivered_of(store, run_id) == {}
            told = receiver.received[-1]
            event = openai.OpenAI(api_key="none").webhooks.unwrap(told.body, told.headers, secret=SECRET)
            assert (event.type, event.data.id) == (kind, f"resp_{run_id}")
            assert event.id.startswith(f"evt_{run_id}.")
            assert abs(event.created_at - now_ms() / 1000) < 60
        callback = {"url": f"openai+{receiver.url()}", "events": ["run.requires_action"]}
        run_id = await start(operations, callback, thread="paused")
        await paused(operations, run_id)
        await deliver(operations, run_id)
        told = receiver.received[-1].event
        assert (told["type"], told["data"]["id"]) == ("response.completed", f"resp_{run_id}")


async def test_langgraphs_receivers_are_told_of_a_run(store: Store, broker_url: str, receiver: Receiver):
    """An address with `langgraph+` is told as that platform tells: the run, its status, and what it said."""
    names = {Reason.COMPLETED: "success", Reason.USER_ABORT: "interrupted", Reason.ENGINE_ERROR: "error"}
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        for number, (reason, status) in enumerate(names.items()):
            run_id = await start(operations, {"url": f"langgraph+{receiver.url()}"}, thread=f"t{number}")
            await end(operations, run_id, reason)
            await deliver(operations, run_id)
            told = receiver.received[-1].event
            about = (told["run_id"], told["thread_id"], told["status"], told["values"]["messages"][0]["type"])
            assert about == (run_id, f"t{number}", status, "ai")
            assert told["error"] is None  # these ended without one


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
            ((member, due_ms),) = (await undelivered_of(store, run_id)).items()
            assert 0.9 * pause_ms <= due_ms - before <= 1.1 * pause_ms + (now_ms() - before)
            await store.client.zadd(keys.run(run_id).callbacks_due, {member: 0})
        await deliver(operations, run_id)
    assert len(set(receiver.ids)) == 1
    assert [one.path for one in receiver.received] == ["/hook"] * 3
    assert await undelivered_of(store, run_id) == {}


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
    ((member, _),) = (await undelivered_of(store, run_id)).items()
    for change in ({"callback_hosts": ""}, {"callback_http": False}, {"callback_networks": ""}):
        async with operating(store, allowed.model_copy(update=change)) as operations:
            await store.client.zadd(keys.run(run_id).callbacks_due, {member: 0})
            await deliver(operations, run_id)
    assert receiver.received == []
    delivery = callbacks.parse_delivery(member)
    assert delivery is not None
    (due,) = await transitions.read_due(store, [delivery])
    assert due is not None
    assert due.attempts.count == 3


# -- what becomes of it when the run, or its user, goes


async def test_a_run_that_is_deleted_is_told_of(store: Store, broker_url: str, receiver: Receiver):
    """Its end is told without its content, whose deletion it was; deleting it after its end changes nothing."""
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        deleter = Deleter(aborter=Aborter(operations=operations), wait_s=0)
        first = await start(operations, {"url": receiver.url()}, thread="first")
        await end(operations, first)
        second = await start(operations, {"url": receiver.url()}, thread="second")
        for thread in ("first", "second"):
            await deleter.delete_thread(thread, tenant="default", user_id="ann")
        for run_id in (first, second):
            await deliver(operations, run_id)
    told = {one.event["data"]["run_id"]: one.event["data"] for one in receiver.received}
    assert {run_id: data["reason"] for run_id, data in told.items()} == {
        first: "user_abort",
        second: "thread_deleted",
    }
    assert all((data["run"], data["run_omitted"]) == (None, "deleted") for data in told.values())
    assert await store.client.keys("ms:*:record") == []


async def test_with_a_users_data_goes_what_was_to_be_told(store: Store, broker_url: str, receiver: Receiver):
    """Nobody is told of a user who is deleted, nor of the ends that this brings; other users' runs are."""
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        ended = await start(operations, {"url": receiver.url()}, thread="ended")
        await end(operations, ended)
        going = await start(operations, {"url": receiver.url()}, thread="going")
        deleter = Deleter(aborter=Aborter(operations=operations), wait_s=0)
        await deleter.delete_thread("ended", tenant="default", user_id="ann")
        await deleter.delete_user(tenant="default", user_id="bob")
        assert len(await undelivered_callbacks.find(store)) == 1
        await deleter.delete_user(tenant="default", user_id="ann")
        for run_id in (ended, going):
            await deliver(operations, run_id)
    assert receiver.received == []
    assert await undelivered_callbacks.find(store) == []
    assert await store.client.keys("ms:*:callbacks") == []


async def test_a_users_data_goes_whatever_waits_besides(
    store: Store, broker_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """More deliveries than a list shows wait: what is to be told of the user's runs is found among them."""
    monkeypatch.setattr(undelivered_callbacks, "MOST", 1)
    monkeypatch.setattr(undelivered_callbacks, "_BATCH", 2)
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        for number in range(6):
            await end(operations, await start(operations, {"url": receiver.url()}, thread=f"t{number}"))
        await Deleter(aborter=Aborter(operations=operations), wait_s=0).delete_user(
            tenant="default", user_id="ann"
        )
    assert await store.client.keys("ms:*:callbacks") == []


async def paused(operations: Operations, run_id: str) -> None:
    """Have the run claimed, and paused with a question."""
    nonce = without_gap()
    claimed = await transitions.claim(
        operations.store, run_id, nonce=nonce, owner="w1", task_id="t", live_ttl_ms=600_000
    )
    assert isinstance(claimed, transitions.Claimed)
    state = await transitions.read(operations.store, run_id)
    assert isinstance(state, transitions.State)
    action = actions.Action(
        action_id="ask",
        kind="question",
        questions=(actions.Question(question_id="q", text="?"),),
        expires_ms=now_ms() + 60_000,
    )
    wait = PAUSE.of(
        transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="w1", nonce=nonce),
        nonce=without_gap(),
        top=state.top,
        spec=state.spec,
        action=action,
        fold=Content(),
        checkpoint=None,
        settings=operations.settings,
    )
    assert isinstance(await operations.perform(wait, notify=nobody), transitions.Paused)


async def test_a_pause_is_told_to_who_asked(store: Store, broker_url: str, receiver: Receiver):
    """With the action, once for the pause and once for the end; who did not ask hears of the end alone."""
    settings = settings_for(broker_url, receiver, on_run_end="shop.all")
    async with operating(store, settings) as operations:
        callback = {"url": receiver.url(), "task": "shop.paid", "events": ["run.requires_action"]}
        asked = await start(operations, callback, thread="asked")
        silent = await start(operations, {"url": receiver.url("/silent")}, thread="silent")
        for run_id in (asked, silent):
            await paused(operations, run_id)
            await deliver(operations, run_id)
        (told,) = receiver.received
        assert told.event["type"] == "run.requires_action"
        assert told.event["data"]["action"]["questions"] == [{"question_id": "q", "text": "?"}]
        assert told.event["data"]["run"]["status"] == "requires_action"
        for run_id in (asked, silent):
            await end(operations, run_id)
            await deliver(operations, run_id)
    assert [(one.path, one.event["type"]) for one in receiver.received[1:]] == [
        ("/hook", "run.ended"),
        ("/silent", "run.ended"),
    ]
    assert len(set(receiver.ids)) == 3
    names = [headers["task"] for headers, _ in messages(broker_url, "celery") if "shop" in headers["task"]]
    assert sorted(names) == ["shop.all", "shop.all", "shop.paid", "shop.paid"]


# -- failures


async def test_what_is_given_up_is_seen_and_told_again(store: Store, broker_url: str, receiver: Receiver):
    """After a day of failures, or at 410 at once; an operator has it told once more under the same id."""
    receiver.answers = [b"410 Gone\r\ncontent-length: 0\r\n"]
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id = await start(operations, {"url": receiver.url()})
        await end(operations, run_id)
        await deliver(operations, run_id)
        (found,) = await undelivered_callbacks.find(store)
        assert found.attempts.given_up
        assert await undelivered_callbacks.count(store) == {"waiting": 0, "given_up": 1}
        await deliver(operations, run_id)
        assert len(receiver.received) == 1
        for _ in ("what was given up", "what was told"):
            assert await undelivered_callbacks.resend(operations, run_id, tenant="default") == 1
            await deliver(operations, run_id)
        with pytest.raises(errors.NotFound):
            await undelivered_callbacks.resend(operations, run_id, tenant="another")
    assert len(receiver.received) == 3
    assert len(set(receiver.ids)) == 1
    first, *others = (one.event["data"] for one in receiver.received)
    assert all(data == first for data in others)


async def test_a_day_of_failures_is_enough(store: Store, broker_url: str, receiver: Receiver):
    """The attempts of a day are 5 s to 6 h apart; the last one that fails gives it up."""
    receiver.answers = [b"503 Later\r\ncontent-length: 0\r\n"] * 50
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id = await start(operations, {"url": receiver.url()})
        await end(operations, run_id)
        await deliver(operations, run_id)
        (found,) = await undelivered_callbacks.find(store)
        yesterday = found.attempts.model_copy(
            update={"first_ms": now_ms() - callbacks.GIVEN_UP_AFTER_MS, "count": 15}
        )
        await transitions.note_attempt(store, found.delivery, attempts=yesterday, due_ms=0)
        await deliver(operations, run_id)
        (found,) = await undelivered_callbacks.find(store)
    assert found.attempts.given_up
    pauses = [callbacks.pause_ms(count) // 1000 for count in range(1, 30)]
    assert (pauses[0], pauses[1], pauses[-1]) == (5, 10, 6 * 3600)


async def test_two_couriers_do_not_tell_at_once(store: Store, broker_url: str, receiver: Receiver):
    """While one waits for a receiver that hangs, another one finds nothing that is due."""
    receiver.may_answer.clear()
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id = await start(operations, {"url": receiver.url()})
        await end(operations, run_id)
        slow = Courier(operations)
        await slow.deliver([keys.run(run_id).callbacks_due])
        await wait_until_async(lambda: receiver.received, description="the first request")
        await deliver(operations, run_id)
        assert len(receiver.received) == 1
        receiver.may_answer.set()
        await slow.wait_idle()
        await slow.aclose()
    assert len(receiver.received) == 1
    assert await undelivered_callbacks.find(store) == []


@pytest.mark.parametrize("target", ["task", "url"])
async def test_who_dies_while_telling_leaves_it_to_others(
    store: Store, broker_url: str, receiver: Receiver, target: str
):
    """Killed after each single write: it is told at least once, under one id, and then nothing is left."""
    callback = {"task": "shop.paid"} if target == "task" else {"url": receiver.url()}
    for commands in range(30):
        published: list[str] = []
        receiver.received.clear()
        life = dying_process.Life(commands)
        mortal = Operations(
            store=dying_process.store(store.url, life),
            settings=settings_for(broker_url, receiver),
            publisher=dying_process.Messages(life, published),  # type: ignore[arg-type]
        )
        alive = Operations(
            store=store, settings=mortal.settings, publisher=dying_process.Messages(noted=published)
        )
        run_id = await start(alive, callback, thread=f"{commands}")
        try:
            await ending.take_and_end(mortal, run_id, sealer="", reason=Reason.USER_ABORT)
            await deliver(mortal, run_id)
            died = life.left == 0
        except dying_process.Died:
            died = True
        await mortal.store.close()
        await ending.take_and_end(alive, run_id, sealer="", reason=Reason.USER_ABORT)
        for member in await undelivered_of(store, run_id):
            await store.client.zadd(keys.run(run_id).callbacks_due, {member: 0})
        await deliver(alive, run_id)
        ids = receiver.ids if target == "url" else [name for name in published if "shop" in name]
        assert 1 <= len(ids) <= 2, commands
        assert len(set(ids)) == 1
        assert await undelivered_of(store, run_id) == {}
        if not died:
            assert commands > 3
            return
    raise AssertionError("it never came to its end")


async def test_a_damaged_callback_keeps_no_run_from_ending(store: Store, broker_url: str, receiver: Receiver):
    """Nobody can tell who is to be told; everyone still is."""
    async with operating(store, settings_for(broker_url, receiver, on_run_end="shop.all")) as operations:
        for number, damage in enumerate(("{", "[]", '"x"', '{"to":')):
            run_id = await start(operations, {"url": receiver.url()}, thread=f"t{number}")
            await store.client.hset(keys.run(run_id).record, "callback", damage)
            await end(operations, run_id)
            await deliver(operations, run_id)
    told = [headers["task"] for headers, _ in messages(broker_url, "celery") if "shop" in headers["task"]]
    assert told == ["shop.all"] * 4
    assert receiver.received == []


async def test_a_damaged_delivery_holds_up_no_other(store: Store, broker_url: str, receiver: Receiver):
    """Whatever of it cannot be read: others of its bucket are told, lists and deletions work, it is seen."""
    async with operating(store, settings_for(broker_url, receiver)) as operations:
        run_id, state, event = [await start(operations, {"url": receiver.url()}) for _ in range(3)]
        for each in (run_id, state, event):
            await end(operations, each)
        await store.client.zadd(keys.run(run_id).callbacks_due, {"no delivery": 1})
        for damaged, field in ((state, "attempts"), (event, "event")):
            (member,) = [one for one in await undelivered_of(store, damaged) if one.startswith(damaged)]
            delivery = callbacks.parse_delivery(member)
            assert delivery is not None
            name = delivery.attempts_field if field == "attempts" else str(delivery.epoch)
            await store.client.hset(keys.run(damaged).callbacks, name, b"{no json")
        assert {one.delivery.run_id for one in await undelivered_callbacks.find(store)} == {
            run_id,
            state,
            event,
        }
        await deliver(operations, run_id)
        told = sorted(json.loads(one.body)["data"]["run_id"] for one in receiver.received)
        assert told == sorted((run_id, state))
        (left,) = await undelivered_callbacks.find(store)
        assert (left.delivery.run_id, left.attempts.count) == (event, 1)
        assert left.attempts.error is not None
        assert list(await undelivered_of(store, run_id)) == [str(left.delivery)]
        deleter = Deleter(aborter=Aborter(operations=operations), wait_s=0)
        await deleter.delete_user(tenant="default", user_id="ann")
        assert await undelivered_of(store, run_id) == {}
