"""`SyncRunContext` serves plain `def` engines, each in a thread of its own.

The event loop stays the only place that touches the run's channel. A thread cannot be cancelled: after a
stop, the engine's next call of its context raises `CancelledError`, and nothing of it is written any more.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from typing_extensions import Unpack

from mainstem_shared.model.actions import Call, OnExpiry, Question
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.interrupts import Item
from mainstem_shared.model.messages import Message
from mainstem_tasks.celery_support.exception_words import described
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.effects import OnUnknown
from mainstem_tasks.sdk.pauses import Paused
from mainstem_tasks.sdk.provider_calls import SyncProviderCall, Used
from mainstem_tasks.sdk.run_view import InputT, RunView

T = TypeVar("T")


class SyncInbox:
    """`run.inbox` for plain `def` engines: the same methods, without `await`."""

    def __init__(self, run: RunContext[Any], call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._run = run
        self._call = call

    def get(self) -> str:
        """Return the next text; wait for it if there is none."""
        return self._call(self._run.inbox.get())

    def get_nowait(self) -> str:
        """Return the next text.

        Raises:
            asyncio.QueueEmpty: there is none.
        """

        async def get() -> str:
            return self._run.inbox.get_nowait()

        return self._call(get())

    def empty(self) -> bool:
        """Tell whether there is nothing to read now."""

        async def empty() -> bool:
            return self._run.inbox.empty()

        return self._call(empty())


class SyncMemory:
    """`run.memory` for plain `def` engines: the same methods, without `await`."""

    def __init__(self, run: RunContext[Any], call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._memory = run.memory
        self._call = call

    def get(self, key: str) -> bytes | None:
        """Return what stands under a key; None if nothing does."""
        return self._call(self._memory.get(key))

    def items(self, prefix: str = "") -> dict[str, bytes]:
        """Return all keys that begin with a prefix, and what stands under them."""
        return self._call(self._memory.items(prefix))

    def put(self, key: str, value: bytes) -> None:
        """Put bytes under a key. See `Memory.put`."""
        self._call(self._memory.put(key, value))

    def delete(self, key: str) -> None:
        """Remove a key; a missing one is no error."""
        self._call(self._memory.delete(key))


class SyncRunContext(RunView[InputT]):
    """`RunContext` for plain `def` engines: the same methods, without `await`, from any thread of the engine.

    Each call returns when the event is buffered. Once the run is stopped every call raises
    `asyncio.CancelledError`, which passes through `except Exception`.
    """

    def __init__(self, run: RunContext[InputT], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            run_id=run.run_id,
            thread_id=run.thread_id,
            user_id=run.user_id,
            tenant=run.tenant,
            input=run.input,
            raw_input=run.raw_input,
            metadata=run.metadata,
            segment=run.segment,
            state=run.state,
            decisions=run.decisions,
            settings=run.settings,
            stopping=lambda: self._closed or run.stopping,
        )
        self._run = run
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._closed = False
        self._effects: dict[str, threading.Lock] = {}
        self.inbox: SyncInbox = SyncInbox(run, self._call)
        """Text that users send while the run is at work. See `RunContext.inbox`."""

        self.memory: SyncMemory = SyncMemory(run, self._call)
        """Bytes that the engine keeps on the thread. See `RunContext.memory`."""

    def messages(self, *, limit: int = 200) -> list[Message]:
        """Return the last messages of the thread before this run. See `RunContext.messages`."""
        return self._call(self._run.messages(limit=limit))

    def history(self, *, limit: int = 200) -> list[dict[str, Any]]:
        """Return the same in the shape that models take. See `RunContext.history`."""
        return self._call(self._run.history(limit=limit))

    def text(self, text: str) -> None:
        """Append to the answer."""
        self._call(self._run.text(text))

    def reasoning(self, text: str) -> None:
        """Append to the model's visible reasoning."""
        self._call(self._run.reasoning(text))

    def refusal(self, text: str) -> None:
        """Append to the model's refusal to answer. See `RunContext.refusal`."""
        self._call(self._run.refusal(text))

    def annotate(self, annotation: Mapping[str, Any]) -> None:
        """Note something about the last text, such as a citation."""
        self._call(self._run.annotate(annotation))

    def data(self, id: str, name: str, value: Any) -> None:  # noqa: A002
        """Show a value of your own, which stays in the content. See `RunContext.data`."""
        self._call(self._run.data(id, name, value))

    def source(
        self,
        url: str | None = None,
        *,
        id: str | None = None,  # noqa: A002
        title: str | None = None,
        media_type: str | None = None,
    ) -> None:
        """Name a source of the answer. See `RunContext.source`."""
        self._call(self._run.source(url, id=id, title=title, media_type=media_type))

    def file(
        self,
        data: bytes,
        media_type: str,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Show a file, which lies beside the run. See `RunContext.file`."""
        self._call(self._run.file(data, media_type, name=name, id=id))

    def output(self, value: Any) -> None:
        """Give the run its structured result. See `RunContext.output`."""
        self._call(self._run.output(value))

    def tool_call(self, call_id: str, name: str, arguments: Mapping[str, Any]) -> None:
        """State that a tool is called; the log knows when this returns. See `RunContext.tool_call`."""
        self._call(self._run.tool_call(call_id, name, arguments))

    def tool_call_start(self, call_id: str, name: str) -> None:
        """State that a tool call begins whose arguments are still streaming."""
        self._call(self._run.tool_call_start(call_id, name))

    def tool_call_delta(self, call_id: str, arguments: str) -> None:
        """Append to the streaming arguments of a tool call."""
        self._call(self._run.tool_call_delta(call_id, arguments))

    def tool_result(self, call_id: str, result: Any, *, failed: bool = False) -> None:
        """Answer a tool call; `result` is anything JSON can hold."""
        self._call(self._run.tool_result(call_id, result, failed=failed))

    def call_id(self, raw: str) -> str:
        """Return an id for a new tool call that no other call of the run has. See `RunContext.call_id`."""

        async def unique() -> str:
            return self._run.call_id(raw)

        return self._call(unique())

    @property
    def working(self) -> bool:
        """Whether a tool or a step is under way: its silence is not the engine's."""
        return self._run.working

    @contextlib.contextmanager
    def busy(self) -> Generator[None]:
        """Count as at work while the block runs, however long it emits nothing."""
        with self._run.busy():
            yield

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[str]:
        """Show a named step while the block runs; it ends as the block does. Yields its id."""
        step = self._run.step(name)
        step_id = self._call(step.__aenter__())
        try:
            yield step_id
        except BaseException as error:
            with contextlib.suppress(asyncio.CancelledError):  # stopped meanwhile: nothing more is written
                self._call(step.__aexit__(type(error), error, error.__traceback__))
            raise
        self._call(step.__aexit__(None, None, None))

    def title(self, title: str) -> None:
        """Name the conversation."""
        self._call(self._run.title(title))

    def usage(self, **used: Unpack[Used]) -> None:
        """Add one provider call's tokens to the run's usage. See `RunContext.usage`."""
        self._call(self._run.usage(**used))

    @contextlib.contextmanager
    def provider_call(
        self,
        *,
        model: str,
        provider: str | None = None,
        input_tokens: int = 0,
        max_output_tokens: int | None = None,
    ) -> Generator[SyncProviderCall]:
        """Make one call of a provider in this block, inside budgets. See `RunContext.provider_call`."""
        making = self._run.provider_call(
            model=model,
            provider=provider,
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
        )
        call = SyncProviderCall(self._call(making.__aenter__()), self._call)
        try:
            yield call
        except BaseException as error:
            with contextlib.suppress(asyncio.CancelledError):  # stopped meanwhile: its segment settles it
                self._call(making.__aexit__(type(error), error, error.__traceback__))
            raise
        self._call(making.__aexit__(None, None, None))

    def agent_at_work(self, about: Mapping[str, Any]) -> None:
        """State which agent is at work now. See `RunContext.agent_at_work`."""
        self._call(self._run.agent_at_work(about))

    def new_agent_id(self) -> str:
        """Return an id for a sub-agent that no other one of the run has."""
        return self._run.new_agent_id()

    def context_usage(self, **snapshot: Any) -> None:
        """Show how full the model's context is; the latest snapshot stays."""
        self._call(self._run.context_usage(**snapshot))

    def agent(self, name: str, **details: Any) -> None:
        """State which agent is at work now."""
        self._call(self._run.agent_at_work({**details, "name": name}))

    def custom(self, name: str, data: Any = None, *, transient: bool = True) -> None:
        """Emit an event of your own. See `RunContext.custom`."""
        self._call(self._run.custom(name, data, transient=transient))

    def finish_reason(self, reason: str) -> None:
        """Say why the model stopped, in its provider's word."""
        self._call(self._run.finish_reason(reason))

    def flush(self) -> Cursor:
        """Wait until everything emitted so far is durable; returns the cursor of the last event."""
        return self._call(self._run.flush())

    def checkpoint(self, state: bytes = b"") -> None:
        """Save the engine's own state. See `RunContext.checkpoint`."""
        self._call(self._run.checkpoint(state))

    def effect(self, key: str, perform: Callable[[str], Any], *, on_unknown: OnUnknown = "retry") -> Any:
        """Perform a side effect once in the run's life, in this thread. See `RunContext.effect`."""
        with self._lock:
            alone = self._effects.setdefault(key, threading.Lock())
        with alone:
            known = self._call(self._run.effects.begin(key, on_unknown=on_unknown, ask=self._run.interrupt))
            if known.done:
                return known.result
            with self.busy():
                result = perform(self.idempotency_key(key))
            return self._call(self._run.effects.end(key, result))

    def interrupt(
        self,
        items: Iterable[Item | Mapping[str, Any]],
        *,
        state: bytes | None = None,
        window_s: float | None = None,
        on_expiry: OnExpiry = "fail",
    ) -> NoReturn:
        """Pause the run until people have decided about items. See `RunContext.interrupt`."""
        self._call(self._run.interrupt(items, state=state, window_s=window_s, on_expiry=on_expiry))
        raise Paused  # not reached: the call has raised it

    def sleep(self, until: float | datetime, *, key: str | None = None, state: bytes | None = None) -> None:
        """Let the run rest for so many seconds, or until a time. See `RunContext.sleep`."""
        self._call(self._run.sleep(until, key=key, state=state))

    def wait_event(
        self,
        event: str,
        *,
        timeout_s: float | None = None,
        lookback_s: float = 0,
        key: str | None = None,
        state: bytes | None = None,
    ) -> Any:
        """Wait until somebody sends an event; return its payload. See `RunContext.wait_event`."""
        wait = self._run.wait_event(event, timeout_s=timeout_s, lookback_s=lookback_s, key=key, state=state)
        return self._call(wait)

    def start_child(
        self,
        engine: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        key: str,
        **options: Any,
    ) -> str:
        """Start a run of its own as this run's child; return its id. See `RunContext.start_child`."""
        return self._call(self._run.start_child(engine, input, key=key, **options))

    def wait_children(
        self,
        run_ids: Iterable[str],
        *,
        timeout_s: float | None = None,
        key: str | None = None,
        state: bytes | None = None,
    ) -> list[dict[str, Any]]:
        """Wait until runs are over; return what became of each. See `RunContext.wait_children`."""
        return self._call(self._run.wait_children(run_ids, timeout_s=timeout_s, key=key, state=state))

    def request_approval(
        self,
        calls: Iterable[Call | Mapping[str, Any]],
        *,
        state: bytes | None = None,
        window_s: float | None = None,
        on_expiry: OnExpiry = "fail",
    ) -> NoReturn:
        """Pause the run until a human has decided about tool calls. See `RunContext.request_approval`."""
        self._call(self._run.request_approval(calls, state=state, window_s=window_s, on_expiry=on_expiry))
        raise Paused  # not reached: the call has raised it

    def ask(
        self,
        questions: Iterable[Question | Mapping[str, Any] | str],
        *,
        state: bytes | None = None,
        window_s: float | None = None,
        on_expiry: OnExpiry = "fail",
    ) -> NoReturn:
        """Pause the run until a human has answered questions. See `RunContext.ask`."""
        self._call(self._run.ask(questions, state=state, window_s=window_s, on_expiry=on_expiry))
        raise Paused  # not reached: the call has raised it

    def close(self) -> None:
        """Let every call from now on, and those that wait, raise `CancelledError`."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closed:
                work.close()
                raise asyncio.CancelledError
            try:
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
            except RuntimeError:  # the loop is closed: the process ends
                work.close()
                raise asyncio.CancelledError from None
            self._waiting.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None
        finally:
            with self._lock:
                self._waiting.discard(future)


async def run_in_thread(function: Callable[[SyncRunContext[Any]], object], run: RunContext[Any]) -> object:
    """Run a plain engine to its end, and return what it returns.

    Cancelled, this returns at once: the thread ends at its next call.
    """
    loop = asyncio.get_running_loop()
    context = SyncRunContext(run, loop)
    done: asyncio.Future[object] = loop.create_future()

    def complete(failure: BaseException | None, result: object) -> None:
        if done.done():
            return  # cancelled meanwhile
        if failure is None:
            done.set_result(result)
        else:
            done.set_exception(failure)

    def body() -> None:
        failure: BaseException | None = None
        result: object = None
        try:
            result = function(context)
        except Exception as error:  # noqa: BLE001 - carried over to the loop
            failure = error
            if isinstance(error, StopIteration):  # a future cannot carry it
                failure = RuntimeError(f"engine raised {described(error)}")
                failure.__cause__ = error
        except Paused as error:
            failure = error
        except BaseException as error:  # noqa: BLE001 - it would end this thread silently, or the whole loop
            failure = RuntimeError(f"engine raised {described(error)}")
            failure.__cause__ = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(complete, failure, result)

    # Not the loop's executor: its few threads would make engines wait for each other. A daemon, so that an
    # engine that never looks up cannot keep the process from ending.
    name = f"engine {run.run_id}"
    thread = threading.Thread(target=contextvars.copy_context().run, args=(body,), name=name, daemon=True)
    thread.start()
    try:
        return await done
    finally:
        context.close()
