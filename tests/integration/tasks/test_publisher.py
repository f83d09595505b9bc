"""Publishing to a real broker: what a message carries, and that no wait for the broker is unbounded."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from mainstem_shared import errors
from mainstem_tasks.celery_support.publisher import GENERATE, TIMEOUT_S, CeleryPublisher
from support.processes.servers import ValkeyProcess, free_port

RUN = "abcdefgh234567ab_abcdefghijklmnopqrstuvwxyz"
SLACK_S = 0.8  # two busy cores


@pytest.fixture
def publisher(broker_url: str) -> Iterator[CeleryPublisher]:
    publisher = CeleryPublisher(broker_url)
    yield publisher
    publisher.close()


def messages(url: str) -> list[dict]:
    with redis.Redis.from_url(url) as client:
        return [json.loads(raw) for raw in reversed(client.lrange("celery", 0, -1))]


def test_a_message_names_the_run_and_is_readable_in_flower(publisher: CeleryPublisher, broker_url: str):
    """The body holds the run id alone; run, user and engine are shown as its arguments, never in shadow."""
    task_id = publisher.publish(RUN, user_id="ann", engine="demo")
    (message,) = messages(broker_url)
    headers = message["headers"]
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([], {"run_id": RUN})
    assert headers["task"] == GENERATE
    assert headers["id"] == task_id
    assert headers["shadow"] is None
    assert headers["ignore_result"] is True
    assert headers["argsrepr"] == RUN
    assert headers["kwargsrepr"] == repr({"user": "ann", "engine": "demo"})


def test_every_publish_has_a_task_id_of_its_own(publisher: CeleryPublisher, broker_url: str):
    """The same run published twice gets two task ids: a revoked one would be dropped for hours."""
    ids = {publisher.publish(RUN, user_id="ann", engine="demo") for _ in range(2)}
    assert ids == {message["headers"]["id"] for message in messages(broker_url)}
    assert len(ids) == 2
    assert all(uuid.UUID(task_id).version == 4 for task_id in ids)


async def test_many_tasks_publish_at_once(publisher: CeleryPublisher, broker_url: str):
    """Concurrent publishes from one loop all arrive, once each."""
    ids = await asyncio.gather(*(publisher.apublish(RUN, user_id="ann", engine="demo") for _ in range(100)))
    assert sorted(ids) == sorted(message["headers"]["id"] for message in messages(broker_url))


def test_revoking_reaches_listening_workers_and_leaves_no_reply_queue(
    publisher: CeleryPublisher, broker_url: str
):
    """A revoke is one broadcast with terminate set; nothing stays behind in the broker."""
    task_id = str(uuid.uuid4())
    with redis.Redis.from_url(broker_url) as client, client.pubsub() as listener:
        listener.psubscribe("*celery.pidbox*")
        assert listener.get_message(timeout=5)
        publisher.revoke(task_id)
        sent = listener.get_message(timeout=5)
        assert sent is not None
        body = json.loads(base64.b64decode(json.loads(sent["data"])["body"]))
        assert body["method"] == "revoke"
        assert body["arguments"] == {"task_id": task_id, "terminate": True, "signal": "SIGTERM"}
        assert body.get("reply_to") is None
        assert client.keys("*reply*") == []


@pytest.mark.parametrize("call", ["publish", "revoke", "ping"])
def test_a_broker_that_is_down_fails_at_once(call: str):
    """Nobody listening: every call says so, well within its bound."""
    publisher = CeleryPublisher(f"redis://127.0.0.1:{free_port()}/1")
    begun = time.monotonic()
    try:
        with pytest.raises(errors.BrokerUnavailable):
            _call(publisher, call)
        assert time.monotonic() - begun < TIMEOUT_S
    finally:
        publisher.close()


@pytest.mark.parametrize("call", ["publish", "revoke", "ping"])
def test_a_frozen_broker_fails_in_time(call: str, private_valkey: ValkeyProcess):
    """Connections open, nothing answers: the call gives up within two seconds, also on a used connection."""
    publisher = CeleryPublisher(private_valkey.url(1))
    try:
        _call(publisher, call)
        private_valkey.freeze()
        begun = time.monotonic()
        with pytest.raises(errors.BrokerUnavailable):
            _call(publisher, call)
        assert time.monotonic() - begun < TIMEOUT_S + SLACK_S
    finally:
        private_valkey.thaw()
        publisher.close()


async def test_a_frozen_broker_holds_up_neither_the_loop_nor_its_default_threads(
    private_valkey: ValkeyProcess,
):
    """While 200 publishes wait for a frozen broker the loop and `to_thread` go on; each fails in time."""
    publisher = CeleryPublisher(private_valkey.url(1))
    await publisher.apublish(RUN, user_id="ann", engine="demo")
    private_valkey.freeze()
    try:
        begun = time.monotonic()
        waiting = [
            asyncio.ensure_future(publisher.apublish(RUN, user_id="ann", engine="demo")) for _ in range(200)
        ]
        longest = 0.0
        while time.monotonic() - begun < 1:
            before = time.monotonic()
            await asyncio.to_thread(lambda: None)
            longest = max(longest, time.monotonic() - before)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {errors.BrokerUnavailable}
        assert time.monotonic() - begun < TIMEOUT_S + SLACK_S
        assert longest < SLACK_S
    finally:
        private_valkey.thaw()
        await publisher.aclose()


def test_a_channel_that_kombu_closed_counts_as_a_lost_broker(broker_url: str):
    """Cut while it retries, kombu falls over its own closed channel: no AttributeError for the outbox."""
    publisher = CeleryPublisher(broker_url)

    def fall_over(sender: Any) -> None:
        with sender.app.connection_for_write() as connection:
            channel = connection.channel()
            link, channel.connection = channel.connection, None  # as closing leaves it
            try:
                channel._put("celery", {"properties": {"priority": 0}})
            finally:
                channel.connection = link

    def misspell(sender: Any) -> None:
        sender.no_such_thing()

    def misuse(sender: Any) -> None:
        with sender.app.connection_for_write() as connection:
            connection.channel()._put("celery", object())  # kombu falls over it, and not over None

    try:
        with pytest.raises(errors.BrokerUnavailable):
            publisher._wait(publisher._submit(fall_over))
        for mistake in (misspell, misuse):  # a mistake of ours stays one
            with pytest.raises((AttributeError, TypeError)):
                publisher._wait(publisher._submit(mistake))
        task_id = publisher.publish(RUN, user_id="ann", engine="demo")
        assert messages(broker_url)[-1]["headers"]["id"] == task_id
    finally:
        publisher.close()


def test_publishing_goes_on_after_the_broker_restarted(private_valkey: ValkeyProcess):
    """The pooled connections died with the old server: the next publish makes a new one by itself."""
    publisher = CeleryPublisher(private_valkey.url(1))
    try:
        publisher.publish(RUN, user_id="ann", engine="demo")
        private_valkey.sigkill()
        with pytest.raises(errors.BrokerUnavailable):
            publisher.publish(RUN, user_id="ann", engine="demo")
        private_valkey.start()
        task_id = publisher.publish(RUN, user_id="ann", engine="demo")
        assert messages(private_valkey.url(1))[-1]["headers"]["id"] == task_id
    finally:
        publisher.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # what is tested
def test_a_forked_child_publishes_over_connections_of_its_own(publisher: CeleryPublisher, broker_url: str):
    """A publisher used before a fork works in child and parent, as under a preforking web server."""
    publisher.publish(RUN, user_id="ann", engine="demo")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            publisher.publish(RUN, user_id="child", engine="demo")
            publisher.close()
            status = 0
        finally:
            os._exit(status)
    publisher.publish(RUN, user_id="ann", engine="demo")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted("child" in m["headers"]["kwargsrepr"] for m in messages(broker_url)) == [False, False, True]


def test_closing_leaves_no_thread_and_a_later_call_starts_anew(publisher: CeleryPublisher, broker_url: str):
    """After close nothing runs; using the publisher again is allowed."""
    publisher.publish(RUN, user_id="ann", engine="demo")
    publisher.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("mainstem-dispatch")]
    publisher.publish(RUN, user_id="ann", engine="demo")
    assert len(messages(broker_url)) == 2


def _call(publisher: CeleryPublisher, call: str) -> None:
    if call == "publish":
        publisher.publish(RUN, user_id="ann", engine="demo")
    elif call == "revoke":
        publisher.revoke(str(uuid.uuid4()))
    else:
        publisher.ping()
