"""A2A without a worker: who is told of a task, named with a message or later, and what errors are called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from integration.operations.test_callbacks import deliver, operating, paused, settings_for
from mainstem_shared.model import callbacks
from mainstem_shared.operations import push_receivers, undelivered_callbacks
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.fakes.webhook_receiver import Receiver, receiving
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async

AGENT = "/v1/a2a/demo"
CONFIG = "TaskPushNotificationConfig"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as listening:
        yield listening


@pytest.fixture
def settings(broker_url: str, receiver: Receiver) -> Settings:
    return settings_for(broker_url, receiver)


@pytest.fixture
async def gateway(store_url: str, broker_url: str, settings: Settings) -> AsyncIterator[GatewayThread]:
    given = settings.model_dump(exclude_unset=True, exclude={"broker_url"})
    with GatewayThread(store_url, broker_url, **given, sweep_s=3600) as running:
        yield running


@pytest.fixture
async def http(gateway: GatewayThread, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    await store.client.hset(keys.ENGINES, "demo", "{}")
    async with gateway.client() as client:
        yield client


async def call(http: httpx.AsyncClient, method: str, **params: Any) -> Any:
    reply = await http.post(AGENT, json={"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    answer = reply.json()
    return answer.get("result", answer.get("error"))


async def sent(http: httpx.AsyncClient, message_id: str, **configuration: Any) -> str:
    message = {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": "hi"}]}
    given = {"returnImmediately": True, **configuration}
    answer = await call(http, "SendMessage", message=message, configuration=given)
    return answer["task"]["id"]


async def told(receiver: Receiver, count: int) -> list[Any]:
    """Return what the receiver was sent, once there is so much: the gateway's own courier sends it."""
    await wait_until_async(lambda: len(receiver.received) >= count, description="what it is sent")
    return receiver.received


async def test_a_receiver_that_a_message_names_is_told_of_the_task(
    http: httpx.AsyncClient, receiver: Receiver
) -> None:
    """With its token and its credentials, signed as every webhook is."""
    authentication = {"scheme": "Bearer", "credentials": "secret"}
    config = {"url": receiver.url("/push"), "token": "t0 ken", "authentication": authentication}
    task_id = await sent(http, "m1", taskPushNotificationConfig=config)
    await call(http, "CancelTask", id=task_id)
    (one,) = await told(receiver, 1)
    update = one.event["statusUpdate"]
    assert (update["taskId"], update["status"]["state"]) == (task_id, "TASK_STATE_CANCELED")
    assert one.path == "/push"
    assert one.headers["x-a2a-notification-token"] == "t0 ken"
    assert one.headers["authorization"] == "Bearer secret"
    assert one.headers["webhook-signature"].startswith("v1,")


async def test_receivers_come_and_go(http: httpx.AsyncClient, receiver: Receiver) -> None:
    """They are described without credentials; one of the same id replaces it; who is removed hears nothing."""
    task_id = await sent(http, "m2")
    for name in ("a", "b", "c"):
        shown = {"scheme": "Basic", "credentials": "hidden"} if name == "a" else {}
        made = await call(
            http,
            f"Create{CONFIG}",
            taskId=task_id,
            id=name,
            url=receiver.url(f"/old-{name}"),
            authentication=shown,
        )
        assert (made["id"], made["taskId"]) == (name, task_id)
    await call(http, f"Create{CONFIG}", taskId=task_id, id="b", url=receiver.url("/b"), token="t")
    listed = await call(http, f"List{CONFIG}s", taskId=task_id)
    assert sorted(one["id"] for one in listed["configs"]) == ["a", "b", "c"]
    got = await call(http, f"Get{CONFIG}", taskId=task_id, id="b")
    assert got == {"id": "b", "taskId": task_id, "url": receiver.url("/b"), "token": "t"}
    assert "hidden" not in str(listed)
    for name in ("a", "c"):
        assert await call(http, f"Delete{CONFIG}", taskId=task_id, id=name) == {}
    assert (await call(http, f"Get{CONFIG}", taskId=task_id, id="a"))["code"] == -32001
    await call(http, "CancelTask", id=task_id)
    assert [one.path for one in await told(receiver, 1)] == ["/b"]
    late = await call(http, f"Create{CONFIG}", taskId=task_id, id="d", url=receiver.url("/d"))
    assert late["code"] == -32004


async def test_a_pause_is_told(
    store: Store, http: httpx.AsyncClient, settings: Settings, receiver: Receiver
) -> None:
    """As input required."""
    task_id = await sent(http, "m3", taskPushNotificationConfig={"url": receiver.url()})
    async with operating(store, settings) as operations:
        await store.client.set(keys.lease("w1"), "worker", ex=120)
        await paused(operations, task_id)
        await deliver(operations, task_id)
    (one, *_) = await told(receiver, 1)
    assert one.event["statusUpdate"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"


async def test_who_may_be_told(http: httpx.AsyncClient) -> None:
    """Only whom the operator allows; a task of somebody else's, or none, has no receivers; nor too many."""
    message = {"messageId": "m4", "role": "ROLE_USER", "parts": [{"text": "hi"}]}
    elsewhere = {"taskPushNotificationConfig": {"url": "https://elsewhere.example/"}}
    refused = await call(http, "SendMessage", message=message, configuration=elsewhere)
    assert "MAINSTEM_CALLBACK_HOSTS" in refused["message"]
    task_id = await sent(http, "m5")
    refused = await call(http, f"Create{CONFIG}", taskId=task_id, url="http://169.254.169.254/")
    assert "MAINSTEM_CALLBACK_HOSTS" in refused["message"]
    for method in (f"Get{CONFIG}", f"List{CONFIG}s", f"Delete{CONFIG}"):
        assert (await call(http, method, taskId="nothing", id="x"))["code"] == -32001


async def test_two_receivers_at_once_are_both_kept(http: httpx.AsyncClient, receiver: Receiver) -> None:
    """Each is added to what is there as of then; past the limit they are refused."""
    task_id = await sent(http, "m6")
    names = [f"n{number}" for number in range(push_receivers.MOST)]
    await asyncio.gather(
        *(
            call(http, f"Create{CONFIG}", taskId=task_id, id=name, url=receiver.url(f"/{name}"))
            for name in names[:4]
        )
    )
    for name in names[4:]:
        await call(http, f"Create{CONFIG}", taskId=task_id, id=name, url=receiver.url(f"/{name}"))
    listed = await call(http, f"List{CONFIG}s", taskId=task_id)
    assert {one["id"] for one in listed["configs"]} == set(names)
    more = await call(http, f"Create{CONFIG}", taskId=task_id, id="more", url=receiver.url())
    assert more["code"] == -32602


async def test_operators_do_not_see_what_proves_us(
    store: Store, http: httpx.AsyncClient, receiver: Receiver
) -> None:
    """A delivery that failed is listed by its address alone."""
    receiver.answers = [b"503 Service Unavailable\r\ncontent-length: 0\r\n"]
    task_id = await sent(http, "m7", taskPushNotificationConfig={"url": receiver.url(), "token": "hidden"})
    await call(http, "CancelTask", id=task_id)
    await told(receiver, 1)
    (untold,) = await undelivered_callbacks.find(store)
    assert untold.target == f"{callbacks.A2A}{receiver.url()}"


async def test_where_no_webhooks_are_allowed(store: Store, store_url: str, broker_url: str) -> None:
    """The card says so, and each method its own error."""
    await store.client.hset(keys.ENGINES, "demo", "{}")
    with GatewayThread(store_url, broker_url, sweep_s=3600) as gateway:
        async with gateway.client() as http:
            card = (await http.get(f"{AGENT}/.well-known/agent-card.json")).json()
            assert not card["capabilities"]["pushNotifications"]
            for method in (f"Create{CONFIG}", f"List{CONFIG}s"):
                assert (await call(http, method, taskId="t"))["code"] == -32003


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b'{"a": 1, "a": 2}', -32700),
        (b"[]", -32600),
        (b'{"jsonrpc": "1.0", "method": "GetTask"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": 7}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "Nothing"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": [1]}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {}}', -32602),
    ],
    ids=["no JSON", "doubled", "batch", "version", "no method", "a number", "unknown", "a list", "nothing"],
)
async def test_errors_of_json_rpc(http: httpx.AsyncClient, body: bytes, code: int) -> None:
    """Each kind has its code."""
    answer = await http.post(AGENT, content=body, headers={"content-type": "application/json"})
    assert (answer.json()["jsonrpc"], answer.json()["error"]["code"]) == ("2.0", code)


async def test_versions_are_negotiated(http: httpx.AsyncClient) -> None:
    """1.0, whatever its patch; who names none means it; another is refused by the protocol's own error."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
    for version, code in (("", None), ("1.0", None), ("1.0.7", None), ("0.3", -32009), ("99.0", -32009)):
        answer = await http.post(AGENT, json=body, headers={"a2a-version": version})
        assert answer.json().get("error", {}).get("code") == code, version


async def test_what_a_message_may_not_be(http: httpx.AsyncClient) -> None:
    """Of a media type that the card does not have, or of a context that is not its task's."""
    part = {"raw": "eA==", "mediaType": "application/x-nothing"}
    message = {"messageId": "m8", "role": "ROLE_USER", "parts": [part]}
    assert (await call(http, "SendMessage", message=message))["code"] == -32005
    task_id = await sent(http, "m9")
    about = {"taskId": task_id, "contextId": "elsewhere", "role": "ROLE_USER", "parts": [{"text": "x"}]}
    assert (await call(http, "SendMessage", message={"messageId": "m10", **about}))["code"] == -32602


async def test_tasks_are_listed_as_asked(http: httpx.AsyncClient) -> None:
    """By state, which none may have; by when they changed; with their artifacts or without."""
    task_id = await sent(http, "m11")
    (task,) = (await call(http, "ListTasks", status="TASK_STATE_SUBMITTED"))["tasks"]
    assert (task["id"], "artifacts" in task) == (task_id, False)
    at = task["status"]["timestamp"]
    for given, ids in (
        ({"includeArtifacts": True}, [task_id]),
        ({"status": "TASK_STATE_AUTH_REQUIRED"}, []),
        ({"statusTimestampAfter": at}, [task_id]),
        ({"statusTimestampAfter": "2100-01-01T00:00:00Z"}, []),
    ):
        listed = await call(http, "ListTasks", **given)
        assert [one["id"] for one in listed["tasks"]] == ids, given
    with_artifacts = await call(http, "ListTasks", includeArtifacts=True)
    assert with_artifacts["tasks"][0]["artifacts"] == []
    assert (await call(http, "ListTasks", status="nonsense"))["code"] == -32602
