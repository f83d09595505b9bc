"""What pydantic refuses is said in one form, wherever it was refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mainstem_shared.model import validation

SOURCES = Path(__file__).parents[2]


class Order(BaseModel):
    """Something with a list in it."""

    name: str
    amounts: list[int]


def refused(given: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Order.model_validate(given)
    return caught.value


def test_the_place_comes_first():
    """Names and positions, joined by dots; what was sent is not quoted."""
    error = refused({"name": "n", "amounts": [1, "secret"]})
    assert validation.first_place(error) == "amounts.1"
    assert validation.first_problem(error).startswith("amounts.1: Input should be a valid integer")
    assert "secret" not in validation.first_problem(error)
    assert str(validation.invalid_request(error)) == validation.first_problem(error)


def test_a_value_that_is_wrong_itself_has_a_place_only_where_it_has_a_name():
    error = refused(7)
    assert validation.first_problem(error, whole="input").startswith("input: ")
    assert not validation.first_problem(error).startswith(":")


def test_of_many_problems_the_first_are_shown():
    error = refused({"name": 1, "amounts": ["a", "b", "c"]})
    said = validation.problems(error, shown=2)
    assert said.startswith("name: ")
    assert "; amounts.0: " in said
    assert said.endswith("; and 2 more")
    assert "more" not in validation.problems(error, shown=4)


def test_nobody_else_words_it():
    """One module takes pydantic's problems apart."""
    users = {
        path.relative_to(SOURCES).as_posix()
        for package in ("shared", "tasks", "workers", "api")
        for path in (SOURCES / package).rglob("*.py")
        if re.search(r"include_input=False", path.read_text("utf-8"))
    }
    assert users == {"shared/mainstem_shared/model/validation.py"}
