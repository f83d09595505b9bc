"""The mutations of `tests/mutations` fit the code and the contract as they are, without running any."""

from __future__ import annotations

import pytest

from mutations import catalogue
from mutations.mutation import Mutation, cited_tests
from support.paths import ROOT


@pytest.mark.parametrize("mutation", catalogue.ALL, ids=lambda mutation: "-".join(map(str, mutation.rows)))
def test_a_mutation_finds_its_snippet_once(mutation: Mutation):
    """Whoever changes the code that keeps a promise moves the mutation that breaks it."""
    source = (ROOT / mutation.file).read_text()
    assert mutation.applied(source) != source


@pytest.mark.parametrize("row", catalogue.by_row())
def test_a_mutated_row_cites_the_tests_that_must_notice(row: int):
    """Those that the mutation names are among those that the row cites, and there is one at least."""
    mutation = catalogue.by_row()[row]
    assert mutation.tests(row)
    names = {test.rpartition("::")[2] for each in mutation.rows for test in cited_tests()[each]}
    assert set(mutation.only) <= names


def test_every_row_has_a_mutation_or_a_reason_for_none():
    """Exactly one of both."""
    mutated = set(catalogue.by_row())
    assert not mutated & set(catalogue.NOT_MUTABLE)
    assert mutated | set(catalogue.NOT_MUTABLE) == set(cited_tests())


def test_the_sample_is_of_rows_that_have_mutations():
    """What every build tries is there to be tried."""
    assert set(catalogue.SAMPLE) <= set(catalogue.by_row())
