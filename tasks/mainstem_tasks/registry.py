"""The engines this process offers: registered by `@engine`, found by name, brought in by entry points.

A package brings its engines with an entry point in the group `mainstem.engines` that names the module which
defines them; a user's own Celery app may simply import them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from mainstem_shared import errors, models

if TYPE_CHECKING:
    from mainstem_tasks.context import RunContext

logger = logging.getLogger(__name__)

GROUP: Final = "mainstem.engines"

EngineFunction = Callable[["RunContext"], Awaitable[None]]
F = TypeVar("F", bound=EngineFunction)

_NAME: Final[TypeAdapter[str]] = TypeAdapter(models.EngineName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A registered engine.

    `checkpoints`: it saves its state (`run.checkpoint`), so that another worker can continue it.
    """

    name: str
    function: EngineFunction
    input_model: type[BaseModel] | None
    checkpoints: bool

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
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "input"
            raise errors.InvalidInput(f"{where}: {first['msg']}", path=where) from error

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the input; gateways validate with it."""
        return {} if self.input_model is None else self.input_model.model_json_schema()


_engines: Final[dict[str, Engine]] = {}


def engine(
    name: str, *, input_model: type[BaseModel] | None = None, checkpoints: bool = False
) -> Callable[[F], F]:
    """Register an `async def` function as the engine `name`.

    Raises:
        ValueError: the name is taken or malformed, or the function is not `async def`.
    """

    def register(function: F) -> F:
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise ValueError(f"{name!r} is no engine name: letters, digits, '_', '.', ':' and '-'") from error
        if not inspect.iscoroutinefunction(function):
            raise ValueError(
                f"engine {name!r}: {function!r} must be `async def`; wrap blocking code in a thread"
            )
        known = _engines.get(name)
        if known is not None and known.function is not function:
            raise ValueError(f"engine {name!r} is {known.function!r} already; choose another name")
        _engines[name] = Engine(
            name=name, function=function, input_model=input_model, checkpoints=checkpoints
        )
        return function

    return register


@cache
def load() -> None:
    """Import what the entry points name. One that fails is reported and does not keep others from loading."""
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception:  # a stranger's package: its engines are missing, everybody else's work
            logger.exception(
                "an engine package does not load",
                extra={"action": "engine_load_failed", "entry_point": point.name, "value": point.value},
            )


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


def describe() -> dict[str, dict[str, Any]]:
    """Return every engine's name with the JSON schema of its input."""
    load()
    return {name: found.schema for name, found in sorted(_engines.items())}
