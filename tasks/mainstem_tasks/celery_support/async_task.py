"""`AsyncTask` is the Celery task base class whose body may be `async def`, on every pool.

On Mainstem's asyncio pool a body suspends the greenlet its tracer runs in; the pool registers how
(`register_driver`). On threads, prefork, solo and eagerly it runs on the process's background loop
while the calling thread waits. This module knows neither the pool nor greenlets.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol

from celery.app.task import Task

from mainstem_tasks.celery_support import background_loop
from mainstem_tasks.celery_support.cancellation import (
    CancelCause,
    Cancellation,
    cancel_cause,
    current_cancellation,
)
from mainstem_tasks.celery_support.exception_words import described

__all__ = ["AsyncTask", "CancelCause", "Driver", "cancel_cause", "register_driver"]


class Driver(Protocol):
    """What the pool offers to a task that runs in one of its greenlets."""

    def drive(self, body: Coroutine[Any, Any, Any]) -> Any:
        """Run `body` to its end, suspending the caller without blocking the loop."""
        ...

    def offload(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a blocking call in a thread, suspending the caller without blocking the loop."""
        ...

    def backend(self, task: AsyncTask) -> Any:
        """The task's result backend, its blocking calls off-loaded."""
        ...


_find_driver: Callable[[], Driver | None] = lambda: None  # noqa: E731 - replaced by the pool


def register_driver(find: Callable[[], Driver | None]) -> None:
    """Let `find` tell the driver of the caller (None outside of the pool's greenlets). Called by the pool."""
    global _find_driver  # noqa: PLW0603 - one pool per process
    _find_driver = find


class SwallowedExitError(RuntimeError):
    """The body raised SystemExit or the like, which would end a whole worker: it fails its task instead."""


class StrayCancelError(RuntimeError):
    """The body ended with CancelledError although nobody stopped the task (a bug in the body)."""


_bound: contextvars.ContextVar[tuple[Task, Any] | None] = contextvars.ContextVar(
    "mainstem_request", default=None
)


class AsyncTask(Task):
    """Base class of tasks with an `async def` body; plain bodies work too.

    `self.request` is right in the body on every pool, and in asyncio tasks the body starts.
    """

    abstract = True
    #: Whether the body is a coroutine function; set when the class is created.
    is_async: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = cls.__dict__.get("run")
        if declared is None:
            return
        static = isinstance(declared, staticmethod)
        body: Callable[..., Any] = declared.__func__ if static else declared
        cls.is_async = inspect.iscoroutinefunction(inspect.unwrap(body))
        if cls.is_async and cls.__dict__.get("_dump_pydantic_arguments") is not None:
            raise TypeError(
                f"{cls.__name__}: pydantic=True is not supported for async tasks; validate in the body."
            )
        cls.run = _bridge(body, static=static, is_async=cls.is_async)

    @property
    def request(self) -> Any:
        """The current request: Celery's own, else the one the running body was started with."""
        stack = self.request_stack
        if stack is None or stack.top is None:
            bound = _bound.get()
            if bound is not None and bound[0].name == self.name:
                return bound[1]
        return self._get_request()

    @property
    def backend(self) -> Any:
        driver = _find_driver()
        return self.blocking_backend if driver is None else driver.backend(self)

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def blocking_backend(self) -> Any:
        """The result backend of this thread."""
        return self.app.backend if self._backend is None else self._backend

    def apply_async(  # pyright: ignore[reportIncompatibleMethodOverride] - all options pass through
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Any:
        """Celery's `apply_async`; in a body on the asyncio pool the publishing happens in a thread.

        With a `producer` it publishes where it is: suspending its holder could starve the producer pool.
        """
        driver = None if options.get("producer") is not None else _find_driver()
        if driver is None:
            return super().apply_async(args, kwargs, **options)
        return driver.offload(super().apply_async, args, kwargs, **options)


def _bridge(body: Callable[..., Any], *, static: bool, is_async: bool) -> Callable[..., Any]:
    """The `run` method that ends `body` where the tracer called it."""
    finish = _run_body if is_async else _run_plain

    @functools.wraps(body)
    def run(self: AsyncTask, *args: Any, **kwargs: Any) -> Any:
        call = (
            functools.partial(body, *args, **kwargs)
            if static
            else functools.partial(body, self, *args, **kwargs)
        )
        return finish(self, call)

    if static:  # Celery inspects the bound method, which hides the first parameter
        signature = inspect.signature(body)
        this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        run.__signature__ = signature.replace(parameters=[this, *signature.parameters.values()])  # pyright: ignore[reportAttributeAccessIssue]
    return run


def _run_plain(_task: AsyncTask, body: Callable[[], Any]) -> Any:
    try:
        return body()
    finally:
        cancellation = current_cancellation()
        if cancellation is not None and cancellation.final:
            # Revoked or timed out meanwhile: the tracer must not record a success over it.
            raise asyncio.CancelledError(cancellation.cause)


def _run_body(task: AsyncTask, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run an `async def` body to its end where we are, and make its end one the tracer can record."""
    token = _bound.set((task, task.request))
    driver = _find_driver()
    cancellation = (None if driver is None else current_cancellation()) or Cancellation()
    try:
        body = call()
        return background_loop.background().run(body, cancellation) if driver is None else driver.drive(body)
    except asyncio.CancelledError as exc:
        if cancellation.cancelled:
            raise
        raise StrayCancelError(
            "The task body ended with CancelledError, but nobody cancelled the task."
        ) from exc
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
        if driver is None:
            raise
        raise SwallowedExitError(f"The task body raised {described(exc)}.") from exc
    finally:
        _bound.reset(token)
