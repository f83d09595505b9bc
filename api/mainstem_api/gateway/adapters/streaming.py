"""Streams a run to one client of a protocol: all adapters answer with this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mainstem_api.gateway.sse import Encoder, EventStream
from mainstem_api.gateway.state import Gateway
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Spec


def stream(
    gateway: Gateway,
    caller: Principal,
    run_id: str,
    *,
    after: Cursor | None,
    encoder: Callable[[Spec], Encoder],
    on_left: Callable[[], Awaitable[object]] | None = None,
) -> EventStream:
    """Return a response that follows a run from a cursor on; None: from its start.

    Raises while it is sent, before the first byte:
        NotFound: the run is not there, or not for the caller to read.

    `on_left` is called if the client disconnects before the end.
    """
    return EventStream(
        gateway.tailer.subscribe(run_id, after=after),
        principal=caller,
        heartbeat_s=gateway.settings.heartbeat_s,
        metrics=gateway.metrics,
        outgoing=gateway.outgoing,
        encoder=encoder,
        on_left=on_left,
    )
