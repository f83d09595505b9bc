"""Starting runs on a real store: checks, idempotency, index entries, and what a crash in between leaves."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.coordination import mailboxes
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import ids
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import INPUT_LIMIT, METADATA_LIMIT, Reason, Status, WaitingFor
from mainstem_shared.operations import performing, starting
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import check_times
from support.models import listed
from support.processes.servers import ValkeyProcess

ANN = Principal(user_id="ann")
SETTINGS = Settings(max_run_s=600)
SCHEMA = {
    "type": "object",
    "properties": {"tokens": {"type": "integer", "minimum": 1}},
    "required": ["tokens"],
    "additionalProperties": False,
}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


class Messages:
    """A broker's front: notes what would be published, or is away."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.is_away = False

    async def apublish(self, run_id: str, **about: Any) -> str:
        if self.is_away:
            raise errors.BrokerUnavailable
        self.published.append(run_id)
        return str(uuid.uuid4())


@pytest.fixture
def messages() -> Messages:
    return Messages()


async def start(store: Store, messages: Messages, thread: str = "t", **changes: Any) -> starting.StartAnswer:
    fields = {"engine": "demo", "input": {"tokens": 3}}
    settings = changes.pop("settings", SETTINGS)
    options = {
        name: changes.pop(name) for name in ("principal", "idempotency_key", "run_id") if name in changes
    }
    return await starting.start_run(
        Operations(store=store, settings=settings, publisher=messages),
        starting.parse_request({**fields, **changes}),
        thread_id=thread,
        **{"principal": ANN, **options},
    )


async def indexed(store: Store) -> list[set[str]]:
    mine = await store.client.zrange(keys.user_runs("default", "ann"), 0, -1)
    indexes = [set(await listed.scores(store.client, kind)) for kind in ("active", "recent")]
    return [*indexes, {member.decode() for member in mine}]


async def end(store: Store, run_id: str) -> None:
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    await transitions.finish(
        store,
        transitions.Control(run_id=run_id, epoch=state.epoch, owner=""),
        nonce=ids.nonce(),
        top=state.top,
        reason=Reason.USER_ABORT,
        state={"content": [], "steps": [], "usage": None, "title": None, "action": None},
        error=None,
        retention_ms=60_000,
        compact_after_ms=60_000,
    )


async def test_a_started_run_is_durable_indexed_and_published(store: Store, messages: Messages):
    """After a start the record, all three indexes and the message exist, and the message is noted."""
    outcome = await start(store, messages, metadata={"chat": 7}, max_duration_s=9)
    run = await run_states.get_run(store, outcome.run_id)
    assert (run.status, run.waiting_for, run.text, run.cursor) == (
        Status.QUEUED,
        WaitingFor.WORKER,
        "",
        "1-0",
    )
    assert run.metadata == {"chat": 7}
    assert await indexed(store) == [{outcome.run_id}] * 3
    assert messages.published == [outcome.run_id]
    state = await transitions.read(store, outcome.run_id)
    assert isinstance(state, transitions.State)
    assert state.record.publish_count == 1
    assert state.spec.max_duration_s == 9
    assert await store.client.ttl(keys.user_runs("default", "ann")) > 0
    due = await store.client.zscore(keys.run(outcome.run_id).active, outcome.run_id)
    assert due == state.spec.created_ms + check_times.FIRST_MS


async def test_an_unavailable_broker_delays_a_run_but_does_not_refuse_it(store: Store, messages: Messages):
    """The start succeeds; the record shows that nobody was told yet, which is what the outbox looks for."""
    messages.is_away = True
    outcome = await start(store, messages)
    state = await transitions.read(store, outcome.run_id)
    assert isinstance(state, transitions.State)
    assert state.status is Status.QUEUED
    assert state.record.published_ms is None


async def test_a_busy_thread_names_its_run_and_leaves_nothing_behind(store: Store, messages: Messages):
    """The refusal carries the active run's id; the refused run stands in no index and no record."""
    first = await start(store, messages)
    with pytest.raises(errors.ThreadBusy) as refusal:
        await start(store, messages)
    assert refusal.value.run_id == first.run_id
    assert await indexed(store) == [{first.run_id}] * 3
    assert messages.published == [first.run_id]


async def test_a_run_that_waits_for_its_thread_gets_no_message(store: Store, messages: Messages):
    """if_active=enqueue: durable and indexed, but no worker is told before its turn."""
    first = await start(store, messages)
    second = await start(store, messages, if_active="enqueue")
    assert second.waiting is WaitingFor.THREAD
    assert messages.published == [first.run_id]
    assert second.run_id in (await indexed(store))[0]


async def test_replacing_names_the_run_that_must_stop(store: Store, messages: Messages):
    """if_active=replace: the outcome says whom to stop, and the wish stands in that run's record."""
    first = await start(store, messages)
    second = await start(store, messages, if_active="replace")
    assert second.replaces == first.run_id
    state = await transitions.read(store, first.run_id)
    assert isinstance(state, transitions.State)
    assert state.record.stop_reason == "replaced"


async def test_the_owner_of_a_replaced_run_gets_a_message(store: Store, messages: Messages):
    """A running run that is replaced finds the wish in its owner's mailbox at once."""
    first = await start(store, messages)
    await transitions.claim(store, first.run_id, nonce="n", owner="w1", task_id="t", live_ttl_ms=60_000)
    await start(store, messages, if_active="replace")
    ((_, mail),) = await store.client.xrange(keys.mailbox("w1"))
    assert mailboxes.MESSAGE.validate_json(mail[b"m"]) == mailboxes.StopMessage(
        run_id=first.run_id, reason=Reason.REPLACED
    )


async def test_an_idempotency_key_starts_one_run_however_often_and_at_once(store: Store, messages: Messages):
    """Twenty concurrent starts with one key are one run, one message, and one entry per index."""
    outcomes = await asyncio.gather(*(start(store, messages, idempotency_key="k") for _ in range(20)))
    assert len({outcome.run_id for outcome in outcomes}) == 1
    assert sorted(outcome.replayed for outcome in outcomes) == [False] + [True] * 19
    assert messages.published == [outcomes[0].run_id]
    assert await indexed(store) == [{outcomes[0].run_id}] * 3


async def test_an_idempotency_key_replays_after_the_end_and_for_equal_requests(
    store: Store, messages: Messages
):
    """A default given explicitly is the same request; the end of the run changes nothing."""
    first = await start(store, messages, idempotency_key="k")
    await end(store, first.run_id)
    again = await start(store, messages, idempotency_key="k", if_active="reject", metadata={})
    assert again == starting.StartAnswer(run_id=first.run_id, replayed=True)


async def test_an_idempotency_key_belongs_to_user_thread_and_body(store: Store, messages: Messages):
    """Another body is refused with the first run's id; another thread or user has keys of their own."""
    first = await start(store, messages, idempotency_key="k")
    with pytest.raises(errors.IdempotencyKeyReused) as refusal:
        await start(store, messages, idempotency_key="k", input={"tokens": 4})
    assert refusal.value.run_id == first.run_id
    elsewhere = await start(store, messages, "another thread", idempotency_key="k")
    bob = await start(store, messages, "bob's", idempotency_key="k", principal=Principal(user_id="bob"))
    assert len({first.run_id, elsewhere.run_id, bob.run_id}) == 3
    assert not elsewhere.replayed
    assert not bob.replayed
    with pytest.raises(errors.ThreadBusy):  # not a replay of Ann's run
        await start(store, messages, idempotency_key="k", principal=Principal(user_id="bob"))


async def test_a_replay_does_not_need_its_engine_any_more(store: Store, messages: Messages):
    """The first start was right when it was made: without the engine its replay is answered still."""
    first = await start(store, messages, idempotency_key="k")
    await store.client.hset(keys.ENGINES, "another", "{}")
    assert (await start(store, messages, idempotency_key="k")).run_id == first.run_id


async def test_a_given_run_id_makes_the_start_repeatable(store: Store, messages: Messages):
    """A redelivered task that starts the run of its own id is answered the same; the run starts once."""
    run_id = ids.run_id("default", "t", uuid.uuid4())
    outcomes = [await start(store, messages, run_id=run_id) for _ in range(2)]
    assert [outcome.run_id for outcome in outcomes] == [run_id, run_id]
    assert await store.client.xlen(keys.run(run_id).log) == 1
    assert await indexed(store) == [{run_id}] * 3


async def test_unknown_engines_are_refused_once_any_was_announced(store: Store, messages: Messages):
    """Before the first announcement everything is accepted; after it only what was announced."""
    await start(store, messages)
    await store.client.hset(keys.ENGINES, "echo", json.dumps(SCHEMA))
    with pytest.raises(errors.UnknownEngine, match="echo"):
        await start(store, messages, "t2")
    await start(store, messages, "t2", engine="echo")
    assert len((await indexed(store))[0]) == 2


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tokens": 0}, r"\$\.tokens"),
        ({}, "tokens"),
        ({"tokens": 3, "extra": 1}, "extra"),
        ({"tokens": "x" * 50_000}, "…"),
    ],
)
async def test_an_input_that_breaks_the_engines_schema_is_refused(
    store: Store, messages: Messages, given: dict, complaint: str
):
    """The refusal says where and what, shortly; nothing was written."""
    await store.client.hset(keys.ENGINES, "demo", json.dumps(SCHEMA))
    with pytest.raises(errors.InvalidInput, match=complaint) as refusal:
        await start(store, messages, input=given)
    assert len(str(refusal.value)) < 400
    assert await indexed(store) == [set()] * 3


@pytest.mark.parametrize(
    "schema", ['{"$ref": "http://127.0.0.1:9/schema.json"}', '{"type": 5}', "no JSON", ""]
)
async def test_an_unusable_schema_refuses_nothing(store: Store, messages: Messages, schema: str):
    """A worker's broken schema is not the caller's fault; a remote reference is not fetched either."""
    await store.client.hset(keys.ENGINES, "demo", schema)
    await start(store, messages)
    assert len(messages.published) == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"input": {"text": "x" * INPUT_LIMIT}}, errors.InputTooLarge),
        ({"metadata": {"text": "x" * METADATA_LIMIT}}, errors.InputTooLarge),
        ({"metadata": nested(220)}, errors.InvalidRequest),
        ({"metadata": nested(400)}, errors.InvalidRequest),
        ({"input": nested(400)}, errors.InvalidRequest),
        ({"idempotency_key": ""}, errors.InvalidRequest),
        ({"idempotency_key": "k" * 256}, errors.InvalidRequest),
        ({"principal": Principal(user_id="a\nb")}, errors.InvalidRequest),
        ({"thread": "a\0b"}, errors.InvalidRequest),
        ({"thread": "x" * 256}, errors.InvalidRequest),
        ({"engine": "no spaces"}, errors.InvalidRequest),
        ({"max_duration_s": 0}, errors.InvalidRequest),
        ({"surprise": 1}, errors.InvalidRequest),
    ],
)
async def test_malformed_requests_are_refused_before_anything_is_written(
    store: Store, messages: Messages, changes: dict, kind: type[errors.InvalidRequest]
):
    """Each is an InvalidRequest; the store stays empty."""
    with pytest.raises(kind):
        await start(store, messages, **changes)
    assert await store.client.dbsize() == 0


async def test_half_a_surrogate_pair_in_a_request_is_replaced(store: Store, messages: Messages):
    """In input and metadata, names included: every reader behind it may take the text for valid Unicode."""
    half = {"half \ud83d": ["\ude00!", {"whole": "\ud83d\ude00"}]}
    mended = {"half \ufffd": ["\ufffd!", {"whole": "\U0001f600"}]}
    outcome = await start(store, messages, input={"tokens": 1, "x": half}, metadata=half)
    claimed = await transitions.claim(
        store, outcome.run_id, nonce="n", owner="w", task_id="t", live_ttl_ms=60_000
    )
    assert isinstance(claimed, transitions.Claimed)
    assert (claimed.input["x"], claimed.spec.metadata) == (mended, mended)


async def test_a_limit_of_the_deployment_bounds_what_a_request_asks_for(store: Store, messages: Messages):
    """max_duration_s beyond MAINSTEM_MAX_RUN_S is that limit."""
    outcome = await start(store, messages, max_duration_s=3600)
    state = await transitions.read(store, outcome.run_id)
    assert isinstance(state, transitions.State)
    assert state.spec.max_duration_s == SETTINGS.max_run_s


async def test_a_store_that_dies_before_the_verb_leaves_only_an_entry_of_the_users_list(
    private_valkey: ValkeyProcess, messages: Messages
):
    """The pair's order: whatever is durable is on its user's list, and never the reverse; no index names it."""
    store = Store(private_valkey.url(), patience_s=0.3)
    real = transitions.start

    async def killed_in_between(*args: Any, **kwargs: Any) -> Any:
        private_valkey.sigkill()
        return await real(*args, **kwargs)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(performing.START, "verb", killed_in_between)
            with pytest.raises(errors.StoreUnavailable):
                await start(store, messages)
        private_valkey.start()
        active, recent, (run_id,) = await indexed(store)
        assert active == recent == set()
        assert isinstance(await transitions.read(store, run_id), transitions.Gone)
        assert messages.published == []
    finally:
        await store.close()


async def test_a_finished_run_is_read_from_its_last_event(store: Store, messages: Messages):
    """Status, reason and times of the end; the cursor is the final event's."""
    outcome = await start(store, messages)
    await end(store, outcome.run_id)
    run = await run_states.get_run(store, outcome.run_id)
    assert (run.status, run.reason) == (Status.ABORTED, Reason.USER_ABORT)
    assert run.epoch > 1
    assert run.cursor == f"{run.epoch}-0"
    assert run.finished_at is not None
    assert run.finished_at >= run.created_at
