"""Snapshots as whole states and as patches of text: whatever a run does, what is stored is its fold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mainstem_shared.model import jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.snapshot_pacing import PATCH_MIN, WHOLE_MIN, Due, Snapshots

TEXTS = st.text(
    st.characters(exclude_categories=()), max_size=8
)  # lone surrogates, quotes, controls: everything
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("text"), TEXTS),
        st.tuples(st.just("reasoning"), TEXTS),
        st.tuples(st.just("title"), TEXTS),
        st.tuples(st.just("lost"), st.just("")),
    ),
    max_size=60,
)


class Run:
    """A run's fold, and the snapshot as the server keeps it."""

    def __init__(self) -> None:
        self.fold, self.snapshots = Content(), Snapshots(0)
        self.stored: tuple[Cursor, bytes] | None = None
        self.cursor = Cursor(2, 0)
        self.patches = self.wholes = 0

    def text(self, kind: str, text: str) -> None:
        last = self.fold.parts[-1] if self.fold.parts else None
        part = len(self.fold.parts) - (getattr(last, "kind", None) == kind)
        self.fold.append_text(kind, part, text)
        self.snapshots.text(part, jsontext.dumps(text))

    def title(self, title: str) -> None:
        self.fold.apply("title", {"title": title})
        self.snapshots.other()

    def snapshot(self, *, arrives: bool = True) -> None:
        """Take a snapshot as soon as one may be taken at all, and store it as the verb does."""
        self.cursor = self.cursor.next()
        self.snapshots.log += WHOLE_MIN * 1000
        due = self.snapshots.take(self.cursor, self.fold)
        assert due is not None
        self.snapshots.stored(arrives and self._store(due))

    def _store(self, due: Due) -> bool:
        if due.patch is None:
            self.wholes += 1
            self.stored = self.cursor, due.state
            return True
        assert self.stored is not None
        base, before = self.stored
        if (base, len(before)) != due.patch[:2]:
            return False
        self.patches += 1
        at = due.patch.at
        self.stored = self.cursor, before[:at] + due.state + before[at:]
        return True


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_what_is_stored_is_always_the_fold(steps: list[tuple[str, str]]):
    """Any texts, kinds, other events and lost snapshots: a stored state reads as the fold at its cursor."""
    run = Run()
    for kind, text in steps:
        if kind == "title":
            run.title(text)
        elif kind != "lost":
            run.text(kind, text)
        before = run.stored
        run.snapshot(arrives=kind != "lost")
        if run.stored != before:
            assert run.stored is not None
            assert jsontext.loads(run.stored[1]) == jsontext.loads(jsontext.dumps(run.fold.dump()))


def test_text_that_grows_is_patched():
    """Of a long answer one snapshot is whole; after another event there is one more."""
    run = Run()
    for _ in range(50):
        run.text("text", 'a "quoted" wörd\n')
        run.snapshot()
    assert (run.wholes, run.patches) == (1, 49)
    run.title("named")
    run.snapshot()
    run.text("text", "more")
    run.snapshot()
    assert (run.wholes, run.patches) == (2, 50)


def test_a_snapshot_that_was_lost_is_not_built_upon():
    """After an unknown outcome the next snapshot is a whole one."""
    run = Run()
    run.text("text", "one")
    run.snapshot()
    run.text("text", " two")
    run.snapshot(arrives=False)
    run.text("text", " three")
    run.snapshot()
    assert (run.wholes, run.patches) == (2, 0)


def test_wholes_wait_for_as_much_log_as_they_have_bytes():
    """An event that cannot be patched in postpones the snapshot until a whole one is worth it."""
    run = Run()
    run.text("text", "x" * 100_000)
    run.snapshot()
    assert PATCH_MIN < run.snapshots.due < 20_000
    run.title("named")
    run.snapshots.log = 20_000
    assert run.snapshots.take(run.cursor, run.fold) is None
    assert run.snapshots.due > 100_000
