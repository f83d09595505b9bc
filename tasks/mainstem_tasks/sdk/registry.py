"""The registry holds the engines of this process: registered by `@engine`, or loaded from entry points.

A package brings its engines with an entry point in the group `mainstem.engines` that names the module which
defines them; a user's own Celery app may simply import them.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, get_args, overload

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from mainstem_shared import errors
from mainstem_shared.model import runs, validation
from mainstem_tasks.celery_support.exception_words import described
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.sync_context import SyncRunContext, run_in_thread

logger = logging.getLogger(__name__)

GROUP: Final = "mainstem.engines"
_SHOWN_PROBLEMS: Final = 3  # of an input; each is a sentence, and one mistake in a union makes dozens
_CLOSE_S: Final = 5.0  # an engine's shared clients have this long to close

EngineFunction = Callable[[RunContext[Any]], Awaitable[object]]
SyncEngineFunction = Callable[[SyncRunContext[Any]], object]
InputT = TypeVar("InputT")
ModelT = TypeVar("ModelT", bound=BaseModel)
OutputT = TypeVar("OutputT")
A = TypeVar("A", bound=Callable[..., Coroutine[Any, Any, object]])

_NAME: Final[TypeAdapter[str]] = TypeAdapter(runs.EngineName)


class MissingExtraError(ImportError):
    """Raised by an engine's module whose optional dependency is not installed: no fault, no engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A registered engine.

    `function` runs it, wherever it has to run; `source` is what was decorated. `checkpoints`: it saves its
    state (`run.checkpoint`), so that another worker can continue it.
    """

    name: str
    function: EngineFunction
    source: Callable[..., Any]
    input_model: type[BaseModel] | None
    checkpoints: bool
    aclose: Callable[[], Awaitable[None]] | None
    priority: runs.Priority | None = None

    def parse(self, run_input: dict[str, Any]) -> Any:
        """Return the input as the engine gets it: its model, or the mapping as it is.

        Raises:
            InvalidInput: it does not fit; says where.
        """
        if self.input_model is None:
            return run_input
        try:
            return self.input_model.model_validate(run_input)
        except ValidationError as error:
            message = validation.problems(error, shown=_SHOWN_PROBLEMS, whole="input")
            path = validation.first_place(error, whole="input")
            raise errors.InvalidInput(message, path=path) from error

    async def execute(self, run: RunContext[Any]) -> None:
        """Run the engine to its end; what it returns, unless nothing, is the run's output."""
        returned: object = await self.function(run)
        if returned is None:
            return
        try:
            value = to_jsonable_python(returned)
        except ValueError:
            noted = {"action": "output_dropped", "run_id": run.run_id, "engine": self.name}
            logger.warning("what the engine returned is no JSON, and therefore no output", extra=noted)
            return
        await run.output(value)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the input, by which gateways validate; the engine's class of runs is in it."""
        schema = {} if self.input_model is None else self.input_model.model_json_schema()
        return schema if self.priority is None else {**schema, runs.PRIORITY_MEMBER: self.priority}


_engines: Final[dict[str, Engine]] = {}


class Registration(Generic[InputT]):
    """The decorator that `engine` returns; the decorated function stays what it is."""

    def __init__(
        self,
        name: str,
        input_model: type[BaseModel] | None,
        *,
        checkpoints: bool,
        aclose: Callable[[], Awaitable[None]] | None,
        priority: runs.Priority | None = None,
    ) -> None:
        self._name = name
        self._input_model = input_model
        self._checkpoints = checkpoints
        self._aclose = aclose
        self._priority: runs.Priority | None = priority

    @overload
    def __call__(
        self, function: Callable[[RunContext[InputT]], Coroutine[Any, Any, OutputT]]
    ) -> Callable[[RunContext[InputT]], Coroutine[Any, Any, OutputT]]: ...
    @overload
    def __call__(
        self, function: Callable[[SyncRunContext[InputT]], OutputT]
    ) -> Callable[[SyncRunContext[InputT]], OutputT]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        is_async = inspect.iscoroutinefunction(function)
        if not is_async and (not inspect.isfunction(function) or _is_generator(function)):
            raise ValueError(f"engine {self._name!r}: {function!r} is neither `async def` nor plain `def`")
        _add(
            Engine(
                name=self._name,
                function=_contained(function) if is_async else functools.partial(run_in_thread, function),
                source=function,
                input_model=self._input_model,
                checkpoints=self._checkpoints,
                aclose=self._aclose,
                priority=self._priority,
            )
        )
        return function


@overload
def engine(
    name: str,
    *,
    input_model: type[ModelT],
    checkpoints: bool = False,
    aclose: Callable[[], Awaitable[None]] | None = None,
    priority: runs.Priority | None = None,
) -> Registration[ModelT]: ...
@overload
def engine(
    name: str,
    *,
    input_model: None = None,
    checkpoints: bool = False,
    aclose: Callable[[], Awaitable[None]] | None = None,
    priority: runs.Priority | None = None,
) -> Registration[dict[str, Any]]: ...
def engine(
    name: str,
    *,
    input_model: type[BaseModel] | None = None,
    checkpoints: bool = False,
    aclose: Callable[[], Awaitable[None]] | None = None,
    priority: runs.Priority | None = None,
) -> Registration[Any]:
    """Register a function as the engine `name`.

    An `async def` gets a `RunContext`, a plain `def` a `SyncRunContext` and a thread of its own. `aclose` is
    awaited on the loop when the process ends: it closes what the engine's runs share. `priority`: the class
    of runs whose start names none; `batch` if nobody waits for them.

    Raises:
        ValueError: the name is taken or malformed, the class is none, or the function is of neither kind.
    """
    if priority not in (None, *get_args(runs.Priority)):
        known = " and ".join(map(repr, get_args(runs.Priority)))
        raise ValueError(f"engine {name!r}: {priority!r} is no priority; there are {known}")
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        raise ValueError(f"{name!r} is no engine name: letters, digits, '_', '.', ':' and '-'") from error
    return Registration(name, input_model, checkpoints=checkpoints, aclose=aclose, priority=priority)


def _add(new: Engine) -> None:
    known = _engines.get(new.name)
    # The same place again is a module that was reloaded.
    if known is not None and _place(known.source) != _place(new.source):
        raise ValueError(
            f"engine {new.name!r} is {_place(known.source)} already: {_place(new.source)} needs another name"
        )
    _engines[new.name] = new


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _contained(function: A) -> A:
    """Return `function` with SystemExit made an ordinary error: out of a task it would end the worker."""

    @functools.wraps(function)
    async def contained(run: RunContext[Any]) -> object:
        try:
            return await function(run)
        except SystemExit as error:
            raise RuntimeError(f"engine raised {described(error)}") from error

    return contained  # pyright: ignore[reportReturnType]


@cache
def load() -> None:
    """Import what the entry points name. One that fails is reported and does not keep others from loading."""
    for point in entry_points(group=GROUP):
        _load(point)


def _load(point: EntryPoint) -> None:
    try:
        point.load()
    except MissingExtraError as error:
        logger.info(
            "an optional engine is not installed: %s",  # the remedy shows in every log format
            error,
            extra={"action": "engine_not_installed", "entry_point": point.name},
        )
    except (Exception, SystemExit):  # a stranger's package: its engines are missing, everybody else's work
        logger.exception(
            "an engine package does not load",
            extra={"action": "engine_load_failed", "entry_point": point.name, "value": point.value},
        )


def load_modules(names: str) -> None:
    """Import the modules that MAINSTEM_ENGINES names (comma-separated) on top of the entry points.

    They may lie in the working directory, as with `celery -A`; installed ones come first.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    for name in filter(None, map(str.strip, names.split(","))):
        _load(EntryPoint(name=name, value=name, group=GROUP))


def get(name: str) -> Engine:
    """Return a registered engine.

    Raises:
        UnknownEngine: there is none of that name here.
    """
    load()
    found = _engines.get(name)
    if found is None:
        raise errors.UnknownEngine(engine=name, known=", ".join(sorted(_engines)) or "none")
    return found


def of(function: Callable[..., Any]) -> Engine:
    """Return the engine that a decorated function is.

    Raises:
        LookupError: it was not decorated.
    """
    for candidate in _engines.values():
        if candidate.source is function:
            return candidate
    raise LookupError(f"{function!r} is no engine; decorate it with @engine")


def describe() -> dict[str, dict[str, Any]]:
    """Return every engine's name with the JSON schema of its input."""
    load()
    return {name: found.schema for name, found in sorted(_engines.items())}


async def aclose() -> None:
    """Close what engines share, on the loop they ran on; when the process's last run has ended."""
    for found in list(_engines.values()):
        if found.aclose is None:
            continue
        try:
            async with asyncio.timeout(_CLOSE_S):
                await found.aclose()
        except Exception:  # the process ends; a client that does not close must not keep the others open
            logger.exception(
                "an engine does not close", extra={"action": "engine_close_failed", "engine": found.name}
            )
