"""An engine that shows everything a page can show; a worker loads it with MAINSTEM_ENGINES=support.engines.page_engines."""

from __future__ import annotations

from typing import Any

from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext

CALLS: list[dict[str, Any]] = [
    {
        "call_id": "table",
        "name": "book_table",
        "arguments": {"place": "Solar", "people": 6},
        "allowed_decisions": ["approve", "edit", "reject"],
    },
    {
        "call_id": "taxi",
        "name": "order_taxis",
        "arguments": {"cars": [{"seats": 4}, {"seats": 4}]},
        "allowed_decisions": ["approve", "reject"],
        "reason": "costs money",
    },
]


@engine("planning")
async def planning(run: RunContext[dict[str, Any]]) -> None:
    """Think, have two calls decided together, ask with options, and say what came of it."""
    if not run.decisions:
        await run.title("Dinner for six")
        await run.reasoning("A table, and a way to get there.")
        await run.text("I would do **both**:")
        for call in CALLS:
            await run.tool_call(call["call_id"], call["name"], call["arguments"])
        await run.request_approval(CALLS, state=b"booked")
    if "when" not in run.decisions:
        for call in CALLS:
            decision = run.decisions[call["call_id"]]
            result = {"decided": decision.type, "people": (decision.arguments or {}).get("people")}
            await run.tool_result(call["call_id"], result, failed=not decision.is_approved)
        question = {"question_id": "when", "text": "At what time?", "options": ["19:00", "20:30"]}
        await run.ask([question], state=b"asked")
    await run.text(f"See you at {run.decisions['when'].text}.")
    await run.usage(input_tokens=120, output_tokens=34)
