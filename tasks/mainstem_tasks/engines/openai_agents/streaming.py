"""Carries the stream of an agent's run into its Mainstem run: text, calls, results, and who is at work."""

# the SDK's items hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from agents import Agent, RunItem
from pydantic_core import to_jsonable_python

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.frameworks.agents import Place, Speaker, ToolAgents
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput


class Streaming:
    """One agent's events on their way into the run. `rejected`: calls that a human did not allow."""

    def __init__(
        self,
        speaker: Speaker,
        agents: ToolAgents,
        model_output: ModelOutput,
        root: Agent[Any],
        *,
        place: Place = (),
        rejected: set[str] | None = None,
    ) -> None:
        self.rejected: set[str] = set() if rejected is None else rejected
        self._run = speaker.says
        self._calls = speaker.calls
        self._agents = agents
        self._place = place
        self._model_output = model_output
        self._at_work = root.name
        self._streamed: dict[int, str] = {}

    async def take(self, event: Any) -> None:
        """Emit what one event says."""
        match event.type:
            case "raw_response_event":
                await self._raw(event.data)
            case "run_item_stream_event":
                await self._item(event.name, event.item)
            case "agent_updated_stream_event" if event.new_agent.name != self._at_work:
                self._at_work = event.new_agent.name
                await self._run.agent(self._at_work)
            case _:
                pass

    async def _raw(self, data: Any) -> None:
        match data.type:
            case "response.output_text.delta":
                self._model_output.take(data.delta)
                await self._run.text(data.delta)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                self._model_output.take(data.delta)
                await self._run.reasoning(data.delta)
            case "response.refusal.delta":
                self._model_output.take(data.delta)
                await self._run.refusal(data.delta)
            case "response.output_item.added" if data.item.type == "function_call":
                self._streamed[data.output_index] = data.item.call_id
                await self._calls.begin(data.item.call_id, data.item.name)
            case "response.function_call_arguments.delta":
                self._model_output.take(data.delta)
                if data.output_index in self._streamed:
                    await self._calls.grow(self._streamed[data.output_index], data.delta)
            case "response.completed":
                self._streamed = {}
                for item in data.response.output:
                    await self._called(item)
            case _:
                pass

    async def _item(self, name: str, item: RunItem) -> None:
        match name:
            case "tool_called" | "handoff_requested":
                await self._called(item.raw_item)
            case "tool_output" | "handoff_occured":
                call_id = _of(item.raw_item, "call_id")
                if call_id is not None:
                    output = getattr(item, "output", None)
                    result = _of(item.raw_item, "output") if output is None else output
                    shown = to_jsonable_python(result, serialize_unknown=True)
                    await self._agents.tool_ended(self._place, call_id)
                    failed = self._calls.id_if_open(call_id) in self.rejected
                    await self._calls.answer(call_id, shown, failed=failed)
            case _:
                pass

    async def _called(self, raw: Any) -> None:
        """State a call with its complete arguments; other tools than functions are the provider's own."""
        if _of(raw, "type") == "function_call":
            await self._calls.complete(_of(raw, "call_id"), _of(raw, "name"), arguments_of(raw))


def arguments_of(raw: Any) -> dict[str, Any]:
    """Return a call's arguments; what is no object stands under `text`."""
    text = _of(raw, "arguments") or "{}"
    try:
        value = jsontext.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"text": text}


def _of(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)
