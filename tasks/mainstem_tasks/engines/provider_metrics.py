"""Counts provider calls: an engine opens `call` around each, and reports the provider's answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator

from mainstem_shared import errors, tracing
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels


@contextlib.contextmanager
def call(model: str, *, provider: str) -> Generator[tracing.Span]:
    """Count one call of a provider, by how it ends; and tell of it in a span."""
    about: tracing.Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }
    with tracing.span(f"chat {model}", kind="CLIENT", attributes=about) as span, _counted(model):
        yield span


@contextlib.contextmanager
def _counted(model: str) -> Generator[None]:
    began = time.monotonic()
    try:
        yield
    except errors.ProviderError as error:
        status = error.fields.get("status")
        known = isinstance(status, int) and 100 <= status <= 599
        metrics.PROVIDER_ERRORS.labels(labels.model(model), str(status) if known else "none").inc()
        metrics.PROVIDER_CALLS.labels(labels.model(model), "failed").inc()
        raise
    except (asyncio.CancelledError, GeneratorExit):
        metrics.PROVIDER_CALLS.labels(labels.model(model), "cancelled").inc()
        raise
    else:
        labels.know_model(model)
        metrics.PROVIDER_CALLS.labels(labels.model(model), "ok").inc()
    finally:
        metrics.PROVIDER_SECONDS.labels(labels.model(model)).observe(time.monotonic() - began)


def tokens(model: str, **counts: int | None) -> None:
    """Count tokens that a provider reported, by kind."""
    labels.know_model(model)
    for kind, count in counts.items():
        if count and count > 0:
            metrics.TOKENS.labels(labels.model(model), kind).inc(count)


def retried(model: str) -> None:
    """Count a call that is made again."""
    metrics.PROVIDER_RETRIES.labels(labels.model(model)).inc()
