"""Small scripted engines: their input is the script. What they say proves what readers got, and in which order."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict

from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine


class Step(BaseModel):
    """`text` words, `wait` seconds, `save` a checkpoint, `approve` a call, `rest` without a worker."""

    model_config = ConfigDict(frozen=True)

    do: str
    amount: float = 0


class Script(BaseModel):
    """What a run does, in order."""

    model_config = ConfigDict(frozen=True)

    steps: list[Step]


@engine("scripted", input_model=Script, checkpoints=True)
async def scripted(run: RunContext[Any]) -> None:
    """Do the steps; a continuation goes on at the step after the last saved one."""
    steps = run.input.steps
    first = 0 if run.state is None else int(run.state)
    for at, step in enumerate(steps[first:], first):
        amount = step.amount
        match step.do:
            case "text":
                for word in range(int(amount)):
                    await run.text(f"{at}.{word} ")
                    await asyncio.sleep(0.05)
            case "wait":
                await asyncio.sleep(amount)
            case "save":
                await run.checkpoint(b"%d" % (at + 1))
            case "rest":
                await run.sleep(amount, key=f"rest{at}", state=b"%d" % at)
            case _:
                await _approved(run, at)


async def _approved(run: RunContext[Any], at: int) -> None:
    """Ask for approval of a call, or say what came of it."""
    decision = run.decisions.get(f"call{at}")
    if decision is None:
        call = {"call_id": f"call{at}", "name": "tool", "arguments": {}}
        await run.request_approval([call], state=b"%d" % at)
    else:
        await run.text(f"{at}.{decision.type} ")
