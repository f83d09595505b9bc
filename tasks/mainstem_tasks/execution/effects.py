"""Records an engine's side effects in the store, under the owner's control of the run."""

from __future__ import annotations

from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.effects import NoteEffect


def of(runtime: Runtime, channel: Channel, *, patience_s: float) -> NoteEffect:
    """Return what notes the effects of the segment that has this channel."""

    async def note(key: str, entry: bytes, replace: bool) -> bytes | None:  # noqa: FBT001
        await channel.flush()  # what was said before it is there, and `control` is what the store has
        return await transitions.effect(
            runtime.store,
            channel.control,
            key=key,
            entry=entry,
            replace=replace,
            live_ttl_ms=runtime.settings.live_ttl_ms,
            patience_s=patience_s,
        )

    return note
