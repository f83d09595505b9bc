"""Every build tries a few mutations, so that neither their runner nor what it tells goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutations import catalogue, trials
from mutations.__main__ import try_all
from mutations.checkouts import Checkout
from mutations.mutation import Mutation
from mutations.trials import TrialResult


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tests_of_the_sampled_rows_notice(tmp_path: Path):
    """Each breaks the row's promise in a copy of the checkout, and the tests that the row cites fail."""
    chosen = [(row, mutation) for row, mutation in catalogue.by_row().items() if row in catalogue.SAMPLE]
    done = try_all(chosen, tmp_path, jobs=2)
    assert {trial.row for trial in done} == set(catalogue.SAMPLE)
    assert [trial for trial in done if trial.result is not TrialResult.KILLED] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_says_nothing_is_told_from_what_is_noticed(tmp_path: Path):
    """A mutation that changes nothing survives; one that leaves no module is no proof."""
    checkout = Checkout(tmp_path / "copy")
    file, old = "shared/mainstem_shared/model/cursors.py", "return entry.seq == cursor.seq + 1"
    seen = [
        trials.run(checkout, Mutation(rows=(35,), file=file, old=old, new=new), row=35).result
        for new in (f"{old}  # as it was", "return (")
    ]
    assert seen == [TrialResult.SURVIVED, TrialResult.BROKEN]
