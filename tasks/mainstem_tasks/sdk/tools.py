"""Tools are Python functions that models may call: `@tool` registers them, their signature is the schema.

Engines find them by name (`use_tools` of the `openai` engine). Bring them with the modules that
MAINSTEM_ENGINES names. Which calls wait for a human is in `policies`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mainstem_shared.model import validation
from mainstem_shared.model.actions import DEFAULT_DECISIONS, DecisionType
from mainstem_tasks.celery_support.exception_words import described
from mainstem_tasks.sdk import tool_threads
from mainstem_tasks.sdk.policies import Policy

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

TIMEOUT_S: Final = 60.0
"""A tool may take this long unless it says otherwise: a model that waits is a user who waits."""

_SHOWN_PROBLEMS: Final = 5  # of arguments, for the model that made them


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What a tool may know of its call: annotate a parameter with this type to get it.

    Side effects cannot be undone or fenced: hand `idempotency_key` to the service that performs them. It is
    the same whenever this very call is made again. A plain `def` tool cannot be cancelled: one that works for
    long looks at `stopping` before each step, and ends.
    """

    run_id: str
    call_id: str
    user_id: str
    tenant: str
    idempotency_key: str
    is_stopping: Callable[[], bool] = field(default=lambda: False, repr=False)
    """Asked by `stopping`, from any thread."""

    @property
    def stopping(self) -> bool:
        """Whether nobody waits for the result: the run is stopped or over, or the call took too long."""
        return self.is_stopping()


class InvalidArgumentsError(ValueError):
    """The arguments do not fit the tool's signature; the model is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A registered tool."""

    name: str
    description: str
    function: Callable[..., Any]
    model: type[BaseModel]
    wants_call: str | None
    """The parameter that gets the `ToolCall`."""
    ask: bool
    decisions: tuple[DecisionType, ...]
    timeout_s: float

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        schema = self.model.model_json_schema()
        schema.pop("title", None)
        return schema

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as chat-completions APIs want it described."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def parse(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function gets them.

        Raises:
            InvalidArgumentsError: they do not fit; says where.
        """
        try:
            parsed = self.model.model_validate(dict(arguments))
        except ValidationError as error:
            raise InvalidArgumentsError(validation.problems(error, shown=_SHOWN_PROBLEMS)) from error
        return {name: getattr(parsed, name) for name in self.model.model_fields}

    async def invoke(self, arguments: Mapping[str, Any], call: ToolCall) -> Any:
        """Call the function: on the loop if it is `async def`, else in a thread.

        Raises:
            InvalidArgumentsError: the arguments do not fit.
            TimeoutError: it took too long. A thread cannot be stopped: its effect may come later.
            Exception: whatever the function raises.
        """
        given = self.parse(arguments)
        over = threading.Event()
        if self.wants_call is not None:
            given[self.wants_call] = replace(call, is_stopping=lambda: over.is_set() or call.stopping)
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                return await self._call(given)
        except TimeoutError as error:
            if limit.expired():
                raise
            raise RuntimeError(f"TimeoutError: {error}") from error  # the function's own
        finally:
            over.set()

    async def _call(self, given: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await _contained(self.function(**given))
        return await tool_threads.run_in_thread(functools.partial(self.function, **given))


async def _contained(work: Awaitable[Any]) -> Any:
    """Make an error of what a function lets out that is none: it would end the run, or the loop.

    Those are an exit, and a cancellation that nobody asked for, of some task of the function's own.
    """
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the tool raised {described(error)}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("the tool was cancelled by itself") from error


_tools: Final[dict[str, Tool]] = {}


def tool(
    *,
    name: str | None = None,
    ask: bool = False,
    decisions: tuple[DecisionType, ...] = DEFAULT_DECISIONS,
    timeout_s: float = TIMEOUT_S,
) -> Callable[[FunctionT], FunctionT]:
    """Register a function as a tool; its docstring tells the model what it is for.

    Args:
        name: what models call it; by default the function's name.
        ask: a human decides about every call, whatever the deployment's policy.
        decisions: what that human may decide.
        timeout_s: how long a call may take.

    Raises:
        ValueError: the name is taken, or a parameter has no name of its own (`*args`).
    """

    def register(function: FunctionT) -> FunctionT:
        called = name or function.__name__
        known = _tools.get(called)
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise ValueError(f"tool {called!r} is {known.function!r} already; give this one another name")
        model, wants_call = _model_of(called, function)
        _tools[called] = Tool(
            name=called,
            description=inspect.getdoc(function) or "",
            function=function,
            model=model,
            wants_call=wants_call,
            ask=ask,
            decisions=decisions,
            timeout_s=timeout_s,
        )
        return function

    return register


def _model_of(name: str, function: Callable[..., Any]) -> tuple[type[BaseModel], str | None]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    wants_call = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ValueError(f"tool {name!r}: {parameter} has no name that a model could use")
        hint = hints.get(parameter.name, Any)
        if hint is ToolCall:
            wants_call = parameter.name
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hint, default)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields), wants_call


def get(name: str) -> Tool | None:
    """Return a registered tool."""
    return _tools.get(name)


def named(names: Iterable[str]) -> dict[str, Tool]:
    """Return registered tools by name.

    Raises:
        ValueError: there is none of a name.
    """
    missing = [name for name in names if name not in _tools]
    if missing:
        known = ", ".join(sorted(_tools)) or "none"
        raise ValueError(f"no tool is registered as {', '.join(missing)}; registered are: {known}")
    return {name: _tools[name] for name in names}


def policy(tools: Iterable[Tool]) -> Policy | None:
    """Return the engine's layer of policy: what the tools themselves ask for."""
    asking = [found for found in tools if found.ask]
    if not asking:
        return None
    return Policy(
        enabled=True,
        default="allow",
        ask=tuple(found.name for found in asking),
        decisions={found.name: frozenset(found.decisions) for found in asking},
    )
