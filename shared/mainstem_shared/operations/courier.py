"""The courier of a process delivers callbacks: takes due deliveries, attempts them, records the outcome.

Every worker and every gateway has one. An entry that is taken is held for a minute (`take_due`), so that no
two try at once; a courier that dies leaves it to the next one. So a target is told at least once, each
time under the same id.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import Final

from pydantic import ValidationError

from mainstem_shared import errors, transitions
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model import callbacks, jsontext, webhook_signatures
from mainstem_shared.model.callbacks import Attempts, DeliveryId
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import callback_events, callback_policy, webhooks
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.transitions.callbacks import Due

logger = logging.getLogger(__name__)

HOLD_MS: Final = 60_000
"""How long an entry is the courier's that took it: longer than any attempt takes."""
AT_ONCE: Final = 64
"""Attempts of one process under way."""
AT_ONCE_OF_USERS: Final = 48
"""Of these, to webhooks that users named: the operator's own targets always have places."""
AT_ONCE_EACH: Final = 16
"""Of these, to one task, to one host, and to the webhooks of one user: who hangs must not hold up others."""
BUSY_MS: Final = 1_000
"""When a delivery that exceeded one of these bounds is due again."""
UNAVAILABLE_S: Final = 1.0
JITTER: Final = 0.1
KEPT_GIVEN_UP_MS: Final = callbacks.KEPT_MS + 2 * callbacks.LONGEST_PAUSE_MS
"""When given-up deliveries are due, to be removed: they have expired by then."""
GONE_STATUS: Final = 410
"""A receiver that answers so wants to hear no more of it."""
TASK, WEBHOOK = "task", "webhook"
Place = tuple[str, ...]
"""What deliveries share: a kind, and a name of that kind."""


class Refused(Exception):
    """An attempt failed: why, and whether another one may help."""

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


class Courier:
    """Delivers what is due in the buckets that its process has hints of, while `run` runs."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._settings = operations.settings
        self._webhooks = webhooks.Webhooks(operations.settings)
        self._under_way: dict[asyncio.Task[None], dict[Place, int]] = {}

    async def run(self) -> None:
        """Deliver until cancelled. What fails is due again later, by itself."""
        try:
            while True:
                await self.deliver(await self._operations.hints.take())
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Break off what is under way, and close all connections."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._webhooks.aclose()

    async def deliver(self, indexes: list[str]) -> None:
        """Begin everything that is due in these buckets."""
        try:
            while indexes:
                await self._for_room()
                indexes = await self._begin(indexes)
        except errors.Unavailable:
            logger.warning("callbacks wait for the store", extra={"action": "callbacks_wait"}, exc_info=True)
            await asyncio.sleep(UNAVAILABLE_S)
        except Exception:
            logger.exception("callbacks could not be looked at", extra={"action": "callbacks_failed"})
            await asyncio.sleep(UNAVAILABLE_S)

    async def wait_idle(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))

    async def _for_room(self) -> None:
        while len(self._under_way) >= AT_ONCE:
            await asyncio.wait(list(self._under_way), return_when=asyncio.FIRST_COMPLETED)

    async def _begin(self, indexes: list[str]) -> list[str]:
        """Begin some deliveries; returns the buckets that have more."""
        room = AT_ONCE - len(self._under_way)
        some, others = indexes[:room], indexes[room:]
        each = max(1, room // len(some))
        taken = await transitions.take_due_of(self._store, some, limit=each, hold_ms=HOLD_MS)
        more = [index for index, found in zip(some, taken, strict=True) if len(found) == each]
        deliveries: list[DeliveryId] = []
        for index, member in ((index, m) for index, found in zip(some, taken, strict=True) for m, _ in found):
            if delivery := callbacks.parse_delivery(member):
                deliveries.append(delivery)
            else:  # left there it would be taken again and again, in others' place
                noted = {"action": "callback_unreadable", "entry": member}
                logger.error("an entry of the callbacks names none; it is dropped", extra=noted)
                await self._operations.indexes.drop_unreadable(index, member)
        for delivery, due in zip(
            deliveries, await transitions.read_due(self._store, deliveries), strict=True
        ):
            if due is None or due.attempts.given_up:
                await transitions.note_attempt(self._store, delivery)  # its time is over
            else:
                await self._begin_one(due)
        return others + more

    async def _begin_one(self, due: Due) -> None:
        places = _places(self._settings, due)
        busy = Counter(place for taken in self._under_way.values() for place in taken)
        if any(busy[place] >= limit for place, limit in places.items()):
            await transitions.note_attempt(
                self._store, due.delivery, attempts=due.attempts, due_ms=now_ms() + BUSY_MS
            )
            return
        task = asyncio.create_task(self._attempt(due), name=f"mainstem-callback-{due.delivery}")
        self._under_way[task] = places
        task.add_done_callback(self._under_way.pop)

    # -- one attempt

    async def _attempt(self, due: Due) -> None:
        kind = WEBHOOK if callbacks.is_webhook(due.target) else TASK
        try:
            try:
                await (self._post if kind == WEBHOOK else self._publish)(due)
            except Refused as refused:
                await self._failed(due, kind, str(refused), is_final=refused.is_final)
            except errors.MainstemError as error:
                await self._failed(due, kind, error.detail)
            except Exception as error:  # damage, or a fault of ours: seen, and given up like any other
                logger.exception("a callback failed in an unexpected way", extra=_named(due.delivery))
                await self._failed(due, kind, f"unexpected: {type(error).__name__}")
            else:
                await self._succeeded(due, kind)
        except errors.Unavailable:
            noted = {"action": "callback_unsettled", "delivery": str(due.delivery)}
            logger.warning("what became of a callback could not be noted", extra=noted, exc_info=True)
        except Exception:  # the task's boundary: the entry is due again when its hold is over
            noted = {"action": "callback_unsettled", "delivery": str(due.delivery)}
            logger.exception("what became of a callback could not be noted", extra=noted)

    async def _publish(self, due: Due) -> None:
        name, queue = callback_policy.judge_task(self._settings, due.target)
        event = await callback_events.message(self._store, due)
        await self._operations.publisher.acall(
            name, event=event, task_id=due.delivery.event_id, queue=queue, run_id=due.delivery.run_id
        )

    async def _post(self, due: Due) -> None:
        webhook = callback_policy.judge_webhook(self._settings, due.target)
        keys = callback_policy.keys_for(self._settings, webhook.host)
        if not keys:
            raise Refused("there is no secret to sign it with (MAINSTEM_WEBHOOK_SECRETS)")
        message = callback_events.SHAPES[webhook.shape]
        body = jsontext.dumps(await message(self._store, due))
        headers = webhook_signatures.headers(
            keys, event_id=due.delivery.event_id, at_s=now_ms() // 1000, body=body
        )
        try:
            status = await self._webhooks.post(webhook, body, headers={**webhook.headers, **headers})
        except webhooks.FAILURES as error:
            raise Refused(f"no answer: {error or type(error).__name__}") from error
        if status == GONE_STATUS:
            raise Refused("the receiver answered 410: it wants no more of it", is_final=True)
        if not 200 <= status < 300:
            raise Refused(f"the receiver answered {status}")

    # -- what came of it

    async def _succeeded(self, due: Due, kind: str) -> None:
        await transitions.note_attempt(self._store, due.delivery)
        metrics.CALLBACKS.labels(kind, "delivered").inc()
        metrics.CALLBACK_DELAY.labels(kind).observe(max(0, now_ms() - _happened_ms(due)) / 1000)
        logger.info(
            "a callback was delivered", extra={"action": "callback_delivered", **_named(due.delivery)}
        )

    async def _failed(self, due: Due, kind: str, why: str, *, is_final: bool = False) -> None:
        now, count = now_ms(), due.attempts.count + 1
        since = due.attempts.first_ms or now
        pause = int(callbacks.pause_ms(count) * random.uniform(1 - JITTER, 1 + JITTER))
        given_up = is_final or now + pause > since + callbacks.GIVEN_UP_AFTER_MS
        attempts = Attempts(count=count, first_ms=since, last_ms=now, error=why, given_up=given_up)
        due_ms = now + KEPT_GIVEN_UP_MS if given_up else now + pause
        await transitions.note_attempt(self._store, due.delivery, attempts=attempts, due_ms=due_ms)
        metrics.CALLBACKS.labels(kind, "given_up" if given_up else "failed").inc()
        noted = {
            "action": "callback_given_up" if given_up else "callback_failed",
            "why": why,
            "attempts": count,
        }
        words = "a callback was given up" if given_up else "a callback failed; it is tried again"
        logger.warning(words, extra={**noted, **_named(due.delivery)})


def _places(settings: Settings, due: Due) -> dict[Place, int]:
    """Return what a delivery takes a place of, and how many places there are of each.

    Whole addresses would bound nothing: a user may name many at one host, and a host may have many names.
    """
    if not callbacks.is_webhook(due.target):
        return {("task", due.target): AT_ONCE_EACH}
    try:
        host = callback_policy.parse_url(due.target).host
    except errors.InvalidRequest:
        host = due.target  # damaged: its attempt says so
    if due.target in callback_policy.everyone(settings):
        return {("operator's host", host): AT_ONCE_EACH}
    return {
        ("users",): AT_ONCE_OF_USERS,
        ("host", host): AT_ONCE_EACH,
        ("user", *_user_of(due)): AT_ONCE_EACH,
    }


def _user_of(due: Due) -> tuple[str, ...]:
    try:
        spec = Spec.model_validate_json(due.spec)
    except ValidationError:
        return ()  # damaged: they share what one user may have
    return spec.tenant, spec.user_id


def _named(delivery: DeliveryId) -> dict[str, str]:
    return {"run_id": delivery.run_id, "delivery": str(delivery)}


def _happened_ms(due: Due) -> int:
    return int(jsontext.loads(due.event).get("at", 0))
