"""Values that are made to be expensive for a schema: what they may cost is bounded, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema.validators import Draft202012Validator

from mainstem_shared import errors
from mainstem_shared.model import bounded_schemas, jsontext

SLOW_PATTERN = "^(a|aa|a+)+$"
ENDLESS = "a" * 5_000 + "!"
"""Searching it by backtracking does not end in anybody's life."""
ALTERNATIVES = {
    "$defs": {
        "node": {
            "anyOf": [
                {"required": [kind], "properties": {"next": {"$ref": "#/$defs/node"}}}
                for kind in ("left", "right")
            ]
        }
    },
    "$ref": "#/$defs/node",
}


def fits(schema: Any, value: Any) -> bool:
    try:
        bounded_schemas.validate(jsontext.dumps(schema), value)
    except errors.InvalidInput:
        return False
    return True


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {ENDLESS: {"pattern": SLOW_PATTERN}}},
        {"patternProperties": {SLOW_PATTERN: {}}, "additionalProperties": False},
        {"propertyNames": {"pattern": SLOW_PATTERN}},
    ],
    ids=["pattern", "patternProperties", "propertyNames"],
)
def test_patterns_are_searched_in_linear_time(schema: dict[str, Any]):
    """Whatever text they meet, wherever a schema has them; and they mean what they meant."""
    assert not fits(schema, {ENDLESS: ENDLESS})
    assert fits(schema, {"aaa": "aaa"})


@pytest.mark.parametrize(
    "item", [lambda n: {"n": n}, lambda n: [n, str(n)], lambda n: n if n % 2 else str(n)]
)
def test_elements_of_a_set_are_not_compared_pair_by_pair(item: Any):
    """Neither objects, nor arrays, nor a mixture that cannot be sorted: 50,000 would be a billion comparisons."""
    many = [item(n) for n in range(50_000)]
    schema = {"properties": {"a": {"uniqueItems": True}}}
    assert fits(schema, {"a": many})
    assert not fits(schema, {"a": [*many, item(7)]})


def test_alternatives_of_alternatives_are_given_up():
    """Each level has two, and neither fits: sixty levels would be 2**60 attempts. The value is refused."""
    value: dict[str, Any] = {}
    for _ in range(60):
        value = {"next": value}
    assert not fits(ALTERNATIVES, value)
    for _ in range(3):
        value = {"left": 1, "next": value} if _ else {"left": 1}
    assert fits(ALTERNATIVES, value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"$dynamicRef": "#"},
        {"$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"},
        {"$ref": "http://127.0.0.1:1/never-fetched"}, {"properties": {"a": {"multipleOf": 0.1}}},
        {"properties": {"b": {"pattern": "(?!b)"}}}, {"type": "nothing"}, [], 3, True,
    ],
    ids=str,
)  # fmt: skip
def test_a_schema_that_cannot_judge_refuses_nothing(schema: Any):
    """It leads to itself or elsewhere, overflows, or is none: the worker's own model decides."""
    assert fits(schema, {"a": 10**400, "b": "b"})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"uniqueItems": True}, [1, 1.0]), ({"uniqueItems": True}, [1, True, "1"]),
        ({"uniqueItems": True}, [{"a": 1, "b": 2}, {"b": 2, "a": 1}]), ({"uniqueItems": True}, [[1], [1, 2]]),
        ({"uniqueItems": False}, [1, 1]), ({"pattern": "b"}, "abc"), ({"pattern": "^b"}, "abc"), ({"pattern": "b"}, 1),
        ({"additionalProperties": False, "properties": {"a": {}}, "patternProperties": {"^x": {}}}, {"a": 1, "xy": 2}),
        ({"additionalProperties": False}, {"a": 1, "b": 2}), ({"additionalProperties": {"type": "string"}}, {"a": 1}),
        ({"additionalProperties": True}, {"a": 1}), ({"patternProperties": {"a": {"type": "string"}}}, {"ba": 1}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, [1]),
    ],
)  # fmt: skip
def test_the_verdict_is_that_of_the_library(schema: Any, value: Any):
    """Each keyword that has a bounded form means what the standard says."""
    kind = Draft202012Validator
    if "$schema" in schema:  # an array of schemas is what an earlier draft had
        assert not fits({"properties": {"a": schema}}, {"a": value}) or not fits(schema, value)
        return
    assert fits({"properties": {"a": schema}}, {"a": value}) == kind(schema).is_valid(value)
