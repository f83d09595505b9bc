"""Opens OpenTelemetry spans where a process has a tracer, and nothing where it has none.

A run carries the trace that it was started in (`Spec.traceparent`), so that all its segments, wherever and
whenever they run, are in one trace: across pauses, hand-overs and workers. Names and attributes follow the
semantic conventions for generative AI; nothing that users say or models answer is in them. The API is
optional; whether and what is sampled is the SDK's business.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Literal, ParamSpec, TypeVar

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # the extra is not installed: nothing is traced
    trace = TraceContextTextMapPropagator = None

P = ParamSpec("P")
R = TypeVar("R")
Kind = Literal["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]
Attributes = dict[str, str | int | float | bool]

NAME: Final = "mainstem"
_PARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_given: Final[ContextVar[str | None]] = ContextVar("mainstem_traceparent", default=None)


class Span:
    """A span that may be there or not."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **attributes: str | float | None) -> None:
        """Add attributes; `__` in a name stands for a dot."""
        if self._span is not None:
            for name, value in attributes.items():
                if value is not None:
                    self._span.set_attribute(name.replace("__", "."), value)

    def failed(self, kind: str) -> None:
        """Say that what the span covers failed. The error's text may hold anything: only its kind is told."""
        if self._span is not None and trace is not None:
            self._span.set_attribute("error.type", kind)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR))


OFF: Final[AbstractContextManager[Span]] = contextlib.nullcontext(Span())
"""What `span` returns without a tracer: one object, that does nothing."""


def is_on() -> bool:
    """Tell whether this process has a tracer: an SDK was set up in it."""
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def span(
    name: str, *, kind: Kind = "INTERNAL", parent: str | None = None, attributes: Attributes | None = None
) -> AbstractContextManager[Span]:
    """Open a span; it is the current one inside. `parent`: a `traceparent`, instead of the current span."""
    return _open(name, kind=kind, parent=parent, attributes=attributes) if is_on() else OFF


@contextlib.contextmanager
def _open(name: str, *, kind: Kind, parent: str | None, attributes: Attributes | None) -> Generator[Span]:
    assert trace is not None
    assert TraceContextTextMapPropagator is not None
    if parent is None and not trace.get_current_span().get_span_context().is_valid:
        parent = _given.get()
    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    with trace.get_tracer(NAME).start_as_current_span(
        name,
        context=context,
        kind=trace.SpanKind[kind],
        attributes=attributes,
        record_exception=False,  # its text may quote what a user said
        set_status_on_exception=False,
    ) as opened:
        found = Span(opened)
        try:
            yield found
        except BaseException as error:
            found.failed(type(error).__name__)
            raise


def traced(
    name: str, *, kind: Kind = "INTERNAL"
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Open a span around each call of a coroutine function."""

    def around(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(name, kind=kind):
                return await function(*args, **kwargs)

        return call

    return around


@contextlib.contextmanager
def given(traceparent: object) -> Generator[None]:
    """Let what happens inside belong to a caller's trace, if that is a `traceparent` of theirs.

    Where this process has no tracer of its own, the runs that it starts carry it on to those that have.
    """
    valid = isinstance(traceparent, str) and _PARENT.fullmatch(traceparent)
    token = _given.set(traceparent if isinstance(traceparent, str) and valid else None)
    try:
        yield
    finally:
        _given.reset(token)


def traceparent() -> str | None:
    """Return the `traceparent` of what goes on now: of the current span, else as a caller gave it."""
    if TraceContextTextMapPropagator is not None:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        if (own := carrier.get("traceparent")) is not None:
            return own
    return _given.get()


def set_up(service: str) -> None:
    """Export to where the SDK's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT), if they do.

    An application that has set up tracing itself keeps that.
    """
    wanted = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))
    if trace is None or is_on() or not wanted or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return  # the API alone traces nothing
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
