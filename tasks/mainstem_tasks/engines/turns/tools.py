"""The tool loop of providers' engines runs called tools, asks for approvals, and returns results.

The transcript stays valid whatever happens: every call of an assistant message has exactly one result after
it, in order. State and decisions are enough to go on with it anywhere.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from mainstem_shared import errors, tracing
from mainstem_shared.model import jsontext
from mainstem_shared.model.actions import CHECKPOINT_LIMIT, Decision
from mainstem_shared.model.actions import Call as AskedCall
from mainstem_tasks.sdk import policies, tools
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.policies import Effect, Policy, Ruling
from mainstem_tasks.sdk.tools import InvalidArgumentsError, ToolCall

logger = logging.getLogger(__name__)

RESULT_LIMIT: Final = 64 * 1024
"""Bytes of a tool's result that the model gets: more would only push the conversation out of its context."""
STATE_LIMIT: Final = CHECKPOINT_LIMIT - 16 * 1024
"""Bytes of the conversation since the run's input, which every checkpoint has."""
SHORTENED: Final = 1000
"""Characters that stay of a result whose conversation has no room for it any more."""


class Called(BaseModel):
    """A call of the model. `arguments` None: it must not run; `fault` says why, and the log has it."""

    model_config = ConfigDict(frozen=True)

    call_id: str
    name: str
    arguments: dict[str, Any] | None
    fault: str = ""
    extras: dict[str, Any] = {}
    """Members that only the provider understands, and wants back."""


class Progress(BaseModel):
    """What a continuation needs: the messages since the run's input, and the calls without a result."""

    v: int = 1
    iteration: int = 0
    messages: list[dict[str, Any]] = []
    pending: list[Called] = []
    leaves_calls: bool = False
    """Whether the batch has calls of the caller's too: the run ends once ours have their results."""
    bare: bool = False
    """Whether the provider refused to get back what only it understands."""

    @property
    def call_ids(self) -> frozenset[str]:
        """The ids of all calls so far."""
        return frozenset(call["id"] for message in self.messages for call in message.get("tool_calls", ()))

    def said(self, content: Any, calls: Sequence[Called], extras: Mapping[str, Any]) -> None:
        """Add the model's message as it came, whose calls are pending from now on."""
        self.iteration += 1
        self.pending = list(calls)
        message = {**extras, "role": "assistant", "content": content or None}
        if calls:
            message["tool_calls"] = [_encoded(call) for call in calls]
        self.messages.append(message)

    def encoded(self) -> bytes:
        """Return the state as a checkpoint keeps it; long runs give up the oldest results' ends for it.

        Raises:
            ContentTooLarge: the conversation is larger than a checkpoint, even so.
        """
        data = self.model_dump_json().encode()
        for message in self.messages:
            if len(data) <= STATE_LIMIT:
                return data
            if message["role"] == "tool" and len(message["content"]) > SHORTENED:
                message["content"] = (
                    f"{message['content'][:SHORTENED]}… (shortened: the conversation is long)"
                )
                data = self.model_dump_json().encode()
        if len(data) > STATE_LIMIT:
            raise errors.ContentTooLarge(limit=STATE_LIMIT)
        return data

    def answered(self, results: Sequence[tuple[Called, Any]]) -> None:
        """Add the results of all pending calls; what was edited stands in the model's message, too."""
        self.messages[-1]["tool_calls"] = [_encoded(call) for call, _ in results]
        self.messages += [
            {"role": "tool", "tool_call_id": call.call_id, "content": _content(result)}
            for call, result in results
        ]
        self.pending = []

    def add_input(self, text: str) -> None:
        """Add what a user said while the calls ran."""
        self.messages.append({"role": "user", "content": jsontext.well_formed(text)})


class Toolbox:
    """The tools that a run's model may call, under its policies."""

    def __init__(self, run: RunContext[Any], names: Iterable[str], policy: Policy | None) -> None:
        self._run = run
        self._tools = tools.named(names)
        deployment = run.settings.tool_policy
        self._layers = (
            None if deployment is None else Policy.model_validate(deployment),
            tools.policy(self._tools.values()),
            policy,
        )

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """The tools as the provider wants them described."""
        return [found.definition for found in self._tools.values()]

    def has(self, name: str) -> bool:
        """Tell whether this is a tool that runs here."""
        return name in self._tools

    async def run_pending(self, progress: Progress) -> None:
        """Get a result for every pending call; pauses the run first if humans must decide about some.

        Nothing runs before everything is decided: a continuation would run it again.
        """
        rulings = {call.call_id: self._rule(call) for call in progress.pending}
        asked = [call for call in progress.pending if self._must_ask(call, rulings[call.call_id])]
        if asked:
            await self._run.request_approval(
                [self._asked(call, rulings[call.call_id]) for call in asked], state=progress.encoded()
            )
        try:
            async with asyncio.TaskGroup() as group:
                working = [
                    group.create_task(self._result(call, rulings[call.call_id])) for call in progress.pending
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the run's reason follows from what it is
        progress.answered([task.result() for task in working])

    def _rule(self, call: Called) -> Ruling:
        return policies.rule(call.name, self._layers)

    def _must_ask(self, call: Called, ruling: Ruling) -> bool:
        if ruling.effect is not Effect.ASK or call.call_id in self._run.decisions:
            return False
        return self._mistake(call) is None  # a call that cannot run is not worth a human's time

    def _asked(self, call: Called, ruling: Ruling) -> AskedCall:
        return AskedCall(
            call_id=call.call_id,
            name=call.name,
            arguments=call.arguments or {},
            allowed_decisions=ruling.allowed_decisions,
            reason=ruling.reason,
            arguments_schema=self._tools[call.name].parameters,
        )

    def _mistake(self, call: Called) -> str | None:
        """Return what the model did wrong, in words for it."""
        if call.arguments is None:
            return call.fault or "The arguments are not a JSON object."
        tool = self._tools.get(call.name)
        if tool is None:
            return f"There is no tool {call.name!r}; there are: {', '.join(self._tools)}."
        try:
            tool.parse(call.arguments)
        except InvalidArgumentsError as error:
            return f"The arguments do not fit: {error}"
        return None

    async def _result(self, call: Called, ruling: Ruling) -> tuple[Called, Any]:
        """Return the call as it was made, and what came of it; the log has both."""
        decision = self._run.decisions.get(call.call_id)
        mistake = self._mistake(call)
        if call.arguments is None:
            return call, {"error": mistake}  # the log has it since the arguments broke off
        if mistake is not None:
            return call, await self._refused(call, mistake)
        if ruling.effect is Effect.DENY:
            return call, await self._refused(call, ruling.reason or "The policy denies this tool.")
        if ruling.effect is Effect.ASK and decision is not None:
            return await self._decided(call, decision)
        return call, await self._invoke(call)

    async def _decided(self, call: Called, decision: Decision) -> tuple[Called, Any]:
        match decision.type:
            case "approve":
                return call, await self._invoke(call)
            case "edit":
                edited = call.model_copy(update={"arguments": dict(decision.arguments or {})})
                await self._run.tool_call(edited.call_id, edited.name, edited.arguments or {})
                return edited, await self._invoke(edited)
            case "respond":
                await self._run.tool_result(call.call_id, decision.text)
                return call, decision.text
            case _:
                why = f": {decision.reason}" if decision.reason else "."
                return call, await self._refused(call, f"The user rejected this call{why}")

    async def _refused(self, call: Called, message: str) -> dict[str, Any]:
        result = jsontext.well_formed({"error": message})
        await self._run.tool_result(call.call_id, result, failed=True)
        return result

    async def _invoke(self, call: Called) -> Any:
        tool, run = self._tools[call.name], self._run
        context = ToolCall(
            run_id=run.run_id,
            call_id=call.call_id,
            user_id=run.user_id,
            tenant=run.tenant,
            idempotency_key=run.idempotency_key(call.call_id),
            is_stopping=lambda: run.stopping,
        )
        try:
            about: tracing.Attributes = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool.name,
                "gen_ai.tool.call.id": call.call_id,
            }
            with tracing.span(f"execute_tool {tool.name}", attributes=about):
                returned = await tool.invoke(call.arguments or {}, context)
        except TimeoutError:
            return await self._refused(call, f"The tool took longer than {tool.timeout_s:g} s.")
        except Exception as error:  # the tool's own failure is for the model to deal with
            noted = {"action": "tool_failed", "run_id": run.run_id, "tool": tool.name}
            logger.warning("a tool failed", extra=noted, exc_info=True)
            return await self._refused(call, _words(error))
        result = _plain(returned)
        await run.tool_result(call.call_id, result)
        return result


def _plain(result: Any) -> Any:
    """Return a tool's result as JSON has it, and not too much of it.

    What JSON cannot hold is told by its nature: the tool has run, and the model must not take it for failed.
    """
    try:
        data = jsontext.dumps(jsontext.well_formed(result))
        plain = jsontext.loads(data)
    except Exception:  # noqa: BLE001 - whatever a stranger's object raises when it is encoded
        return {"result": f"The tool ran; its result ({type(result).__name__}) cannot be shown as JSON."}
    if len(data) > RESULT_LIMIT:
        return {"truncated": data[:RESULT_LIMIT].decode(errors="ignore"), "bytes": len(data)}
    return jsontext.well_formed(plain)


def _words(error: Exception) -> str:
    try:
        said = str.__getitem__(str(error), slice(0, 2000))
    except BaseException:  # noqa: BLE001 - a stranger's `__str__` may raise anything, or return no text
        said = ""
    return f"{type(error).__name__}: {said}"[:2000]


def _encoded(call: Called) -> dict[str, Any]:
    arguments = jsontext.dumps(call.arguments or {}).decode()
    function: Mapping[str, Any] = {"name": call.name, "arguments": arguments}
    return {**call.extras, "id": call.call_id, "type": "function", "function": function}


def _content(result: Any) -> str:
    return result if isinstance(result, str) else jsontext.dumps(result).decode()


def tool_names(given: Sequence[Mapping[str, Any]] | None) -> set[str]:
    """Return the names of tools that the caller described, and runs itself."""
    return {str((tool.get("function") or {}).get("name")) for tool in given or ()}
