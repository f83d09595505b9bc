"""A run that asks about a mixture of things, decided over HTTP: bad answers lose nothing, good ones reach the engine."""

from __future__ import annotations

from typing import Any

import httpx

from mainstem_shared.settings import Settings
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from support.processes.in_process_worker import working

NUMBERS = {"type": "array", "items": {"type": "integer"}, "maxItems": 3}


@engine("interrupts.mixed")
async def mixed(run: RunContext[dict[str, Any]]) -> None:
    """Ask about a call, a question and data at once; then say what was decided about each."""
    if not run.decisions:
        await run.tool_call("pay", "transfer", {"amount": 5})
        await run.interrupt(
            [
                {"id": "pay", "type": "approval", "value": {"name": "transfer", "arguments": {"amount": 5}}},
                {"id": "why", "type": "question", "value": "What for?"},
                {"id": "plan", "type": "data", "value": {"draft": [1]}, "response_schema": NUMBERS},
            ],
            state=b"asked",
        )
    decided = run.decisions
    assert decided["pay"].arguments is not None
    await run.tool_result("pay", decided["pay"].arguments)
    await run.text(f"{decided['why'].text} {decided['plan'].value} {run.state!r}")


async def test_a_mixture_is_decided_at_once(settings: Settings, http: httpx.AsyncClient):
    """Every way to answer wrong says what is wrong, and the run waits on; then each answer arrives as it is."""
    started = await http.post("/v1/threads/t/runs", json={"engine": "interrupts.mixed", "input": {}})
    path = f"/v1/runs/{started.json()['run_id']}"
    async with working(settings) as runtime:
        await segments.execute(runtime, started.json()["run_id"], task_id="t")
        waiting = (await http.get(path)).json()
        action = waiting["action"]
        assert (action["kind"], [c["call_id"] for c in action["calls"]]) == ("interrupt", ["pay"])
        assert action["questions"][1] == {
            "question_id": "plan", "text": '{"draft":[1]}', "type": "data", "value": {"draft": [1]},
            "response_schema": NUMBERS,
        }  # fmt: skip
        right: dict[str, Any] = {
            "action_id": action["action_id"],
            "decisions": [{"call_id": "pay", "type": "edit", "arguments": {"amount": 3}}],
            "answers": [{"question_id": "why", "text": "rent"}, {"question_id": "plan", "value": [2, 3]}],
        }
        for wrong, code in (
            (
                {"answers": [right["answers"][0], {"question_id": "plan", "value": [1, 2, 3, 4]}]},
                "invalid_decision",
            ),
            (
                {"answers": [right["answers"][0], {"question_id": "plan", "text": "not JSON"}]},
                "invalid_decision",
            ),
            ({"answers": right["answers"][:1]}, "invalid_decision"),
            ({"decisions": []}, "undecided_call"),
            ({"decisions": [{"call_id": "pay", "type": "respond", "text": "x"}]}, "decision_not_allowed"),
        ):
            refused = await http.post(f"{path}/resume", json={**right, **wrong})
            assert refused.json()["code"] == code, refused.text
        assert (await http.get(path)).json() == waiting
        for _ in range(2):  # the second time it is the same decision
            assert (await http.post(f"{path}/resume", json=right)).status_code == 202
        await segments.execute(runtime, started.json()["run_id"], task_id="t")
    run = (await http.get(path)).json()
    assert (run["status"], run["text"]) == ("succeeded", "rent [2, 3] b'asked'")
    assert run["content"][0]["result"] == {"amount": 3}
