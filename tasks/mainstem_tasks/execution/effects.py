"""Records an engine's side effects in the store, under the owner's control of the run."""

from __future__ import annotations

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.model.cursors import Cursor
from mainstem_tasks.execution.owner_transitions import as_owner
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.effects import NoteEffect


def of(runtime: Runtime, channel: Channel, *, patience_s: float) -> NoteEffect:
    """Return what notes the effects of the segment that has this channel."""

    async def note(key: str, entry: bytes, replace: bool) -> bytes | None:  # noqa: FBT001
        async def attempt(control: transitions.Control, top: Cursor) -> bytes | transitions.Refused | None:
            del top
            return await transitions.effect(
                runtime.store,
                control,
                key=key,
                entry=entry,
                replace=replace,
                live_ttl_ms=runtime.settings.live_ttl_ms,
                patience_s=patience_s,
            )

        known = await as_owner(runtime, channel, attempt)  # what was said before it is there
        if isinstance(known, transitions.Refused):
            raise errors.Fenced(run_id=channel.control.run_id)
        return known

    return note
