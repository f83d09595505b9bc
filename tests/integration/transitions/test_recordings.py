"""What earlier versions left in the store, read by this one: recordings of every record version ever released."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.model import contents
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import RECORD_VERSION, Reason
from mainstem_shared.operations import ending
from mainstem_shared.operations.ending import close_open_calls
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import recordings
from support.models.recordings import Recording

FILES = [path for version in recordings.versions() for path in sorted(version.glob("*.json"))]
OVER = [path for path in FILES if recordings.load(path).run["finished_at"]]
UNFINISHED = [path for path in FILES if path not in OVER]


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


async def restored(store: Store, path: Path) -> Recording:
    recording = recordings.load(path)
    await recording.restore(store.client)
    return recording


def test_this_version_is_recorded():
    """A new version of the record comes with recordings of its own; the old ones stay."""
    kinds = {path.stem for path in FILES if path.parent == recordings.of_this_version()}
    assert kinds >= {
        "completed",
        "failed",
        "aborted",
        "approved",
        "asking",
        "interrupted",
        "queued",
        "waiting",
    }
    assert len(recordings.versions()) == RECORD_VERSION


@pytest.mark.parametrize("path", FILES, ids=name_of)
async def test_a_run_reads_as_it_did(store: Store, runs: AsyncRuns, path: Path):
    """Whatever its own version's client said of a run, this one says; and it may say more."""
    recording = await restored(store, path)
    now: dict[str, Any] = (await runs.get(recording.run_id)).model_dump(mode="json")
    shifted = {"started_at", "finished_at"}
    assert {name: now[name] for name in recording.run.keys() - shifted} == {
        name: value for name, value in recording.run.items() if name not in shifted
    }
    listed = await runs.list(thread_id=recording.run["thread_id"])
    assert recording.run_id in {run.run_id for run in listed.runs}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_log_folds_to_what_it_did(path: Path):
    """Without a hole, to the content that its version's fold had; the end says the same."""
    recording = recordings.load(path)
    entries = recording.log
    assert entries[0].cursor == Cursor(1, 0), "a recording that was trimmed does not show this"
    assert all(later.follows(earlier.cursor) for earlier, later in itertools.pairwise(entries))
    is_over = entries[-1].type == Type.FINISHED
    fold = contents.fold(entries[:-1] if is_over else entries)
    if recording.run["reason"] not in (None, "completed"):
        close_open_calls(fold)
    assert strip_moments(fold.dump()["content"]) == strip_moments(recording.run["content"])
    if is_over:
        assert strip_moments(entries[-1].payload()["content"]) == strip_moments(recording.run["content"])


def strip_moments(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What closes a dangling call stamps it with the moment when it does."""
    return [{name: value for name, value in part.items() if not name.endswith("_at")} for part in content]


@pytest.mark.parametrize("path", OVER, ids=name_of)
async def test_events_are_followed_from_any_cursor(store: Store, runs: AsyncRuns, path: Path):
    """A client that upgrades in the middle goes on with the cursor it has, to the same end."""
    recording = await restored(store, path)
    whole = [event async for event in runs.events(recording.run_id)]
    assert [event.cursor for event in whole] == [str(entry.cursor) for entry in recording.log]
    assert whole[-1].data["text"] == recording.run["text"]
    for at in (0, len(whole) // 2, len(whole) - 2):
        rest = [event async for event in runs.events(recording.run_id, after=whole[at].cursor)]
        assert rest == whole[at + 1 :]


@pytest.mark.parametrize("path", UNFINISHED, ids=name_of)
async def test_an_unfinished_run_can_be_ended(store: Store, runs: AsyncRuns, path: Path):
    """Sealed if need be, folded, finished: with the content that it had, and with nothing left but its end."""
    recording = await restored(store, path)
    ended = await ending.take_and_end(
        runs._operations, recording.run_id, sealer="me", reason=Reason.USER_ABORT
    )
    assert ended is not None
    assert ended.mine
    run = await runs.get(recording.run_id)
    assert (run.status, run.reason, run.text) == ("aborted", "user_abort", recording.run["text"])
    k = keys.run(recording.run_id)
    assert not await store.client.exists(k.snapshot, k.checkpoint)
