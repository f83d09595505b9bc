"""`run.effect`: whatever dies when, each effect is performed as intended, and its result is the same for ever."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Status
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, SyncRunContext, engine
from mainstem_tasks.execution import segments
from mainstem_tasks.testing import run_engine
from support.processes import dying_worker
from support.processes.dying_process import Died, Life
from support.processes.in_process_worker import working

EFFECTS = 3
received: Counter[str] = Counter()
"""How often the receiver got each idempotency key: one that is idempotent performs each once."""
lives: list[Life] = []
"""Of a worker that is to die while its effect is under way."""


async def receive(key: str) -> dict[str, Any]:
    """Take an order; the worker that sent it may die meanwhile."""
    received[key] += 1
    if lives:
        lives.pop().left = 0
        raise Died
    return {"order": len(received)}


@engine("effects.orders", checkpoints=True)
async def orders(run: RunContext[dict[str, Any]]) -> None:
    """Order several things, and say what came of it."""
    policy = run.input.get("on_unknown", "retry")
    results = [await run.effect(f"order {n}", receive, on_unknown=policy) for n in range(EFFECTS)]
    again = [await run.effect(f"order {n}", receive) for n in range(EFFECTS)]
    assert results == again
    await run.text(json.dumps(results))


@engine("effects.plain")
def plain(run: SyncRunContext[dict[str, Any]]) -> None:
    """Do the same from a thread."""
    results = [run.effect(key, lambda given: {"key": given}) for key in ("a", "b", "a")]
    run.text(json.dumps([result["key"] == run.idempotency_key("b") for result in results]))


async def finished(settings: Settings, runs: AsyncRuns, store: Store, run_id: str) -> Any:
    """Sweep and execute until the run is over, or waits for a human."""
    async with working(settings) as runtime:
        for _ in range(4):
            await dying_worker.sweep(settings, store, runtime.operations)
            await segments.execute(runtime, run_id, task_id="t")
            run = await runs.get(run_id)
            if run.status.is_terminal or run.status is Status.REQUIRES_ACTION:
                return run
    raise AssertionError(f"the run is {run.status}")


async def test_wherever_its_worker_dies_each_effect_is_performed_as_intended(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """After each command of the worker: three orders are received, and nothing of them is left behind."""
    for commands in range(60):
        received.clear()
        started = await runs.start(f"thread {commands}", "effects.orders", {}, on_worker_lost="resume")
        survived = await dying_worker.dies(settings, started.run_id, after=commands)
        run = (
            await finished(settings, runs, store, started.run_id)
            if not survived
            else await runs.get(started.run_id)
        )
        assert run.status is Status.SUCCEEDED, run.error
        assert len(received) == EFFECTS
        assert sum(received.values()) <= EFFECTS + 1, "only what was under way may be sent again"
        assert len(json.loads(run.text)) == EFFECTS
        assert not await store.client.exists(keys.run(started.run_id).effects)
        if survived:
            assert commands > 2 * EFFECTS, "it died nowhere"
            return
    raise AssertionError("it never came to its end")


async def dies_within(settings: Settings, runs: AsyncRuns, policy: str) -> str:
    """Start a run whose worker dies while its first effect is under way."""
    received.clear()
    started = await runs.start(policy, "effects.orders", {"on_unknown": policy}, on_worker_lost="resume")
    async with dying_worker.mortal(settings, dying_worker.PLENTY) as (runtime, life):
        lives.append(life)
        with pytest.raises(Died):
            await segments.execute(runtime, started.run_id, task_id="t")
    return started.run_id


async def test_an_unknown_outcome_may_be_a_failure(settings: Settings, runs: AsyncRuns, store: Store):
    """`fail`: nothing is sent again, and the run says why."""
    run = await finished(settings, runs, store, await dies_within(settings, runs, "fail"))
    assert (run.status, run.error.code) == (Status.FAILED, "effect_unknown")
    assert received.total() == 1


@pytest.mark.parametrize(("answer", "sent"), [("happened", EFFECTS), ("retry", EFFECTS + 1)])
async def test_a_human_may_know(settings: Settings, runs: AsyncRuns, store: Store, answer: str, sent: int):
    """`ask`: the run waits for somebody who says whether it happened; only `retry` sends it again."""
    run = await finished(settings, runs, store, await dies_within(settings, runs, "ask"))
    assert run.status is Status.REQUIRES_ACTION
    assert run.action["questions"][0]["options"] == ["happened", "retry"]
    answers = [{"question_id": "effect:order 0", "text": answer}]
    await runs.resume(run.run_id, action_id=run.action["action_id"], answers=answers)
    run = await finished(settings, runs, store, run.run_id)
    assert run.status is Status.SUCCEEDED, run.error
    assert received.total() == sent
    assert len(received) == EFFECTS
    assert (json.loads(run.text)[0] is None) == (answer == "happened")


async def test_a_zombies_effect_is_not_noted(settings: Settings, runs: AsyncRuns, store: Store):
    """A worker that lost the run learns it before it begins another effect."""
    started = await runs.start("t", "effects.orders", {})
    async with working(settings) as runtime:
        control: list[Any] = []

        async def stolen(run: RunContext[Any]) -> None:
            record = keys.run(run.run_id).record
            await store.client.hset(record, "owner", "another")
            control.append(await run.effect("x", receive))

        received.clear()
        engine("effects.stolen")(stolen)
        await segments.execute(runtime, started.run_id, task_id="t")
        stolen_run = await runs.start("u", "effects.stolen", {})
        await segments.execute(runtime, stolen_run.run_id, task_id="t")
    assert control == []
    assert len(received) == EFFECTS


async def test_plain_engines_have_effects_too():
    assert (await run_engine("effects.plain")).text == "[false, true, false]"


async def test_a_large_result_comes_back_whole():
    """Results over 64 KB lie beside the run; what comes back is the same."""

    async def large(run: RunContext[Any]) -> None:
        results = [await run.effect("big", lambda _: ["x" * 100_000]) for _ in range(2)]
        await run.text(str(results == [["x" * 100_000]] * 2))

    assert (await run_engine(engine("effects.large")(large))).text == "True"


async def test_what_is_no_json_and_what_has_no_key_are_refused():
    async def wrong(run: RunContext[Any]) -> None:
        for key, result in (("", 1), ("x" * 257, 1), ("a", object())):
            with pytest.raises((ValueError, TypeError)):
                await run.effect(key, lambda _, result=result: result)

    await run_engine(engine("effects.wrong")(wrong))
