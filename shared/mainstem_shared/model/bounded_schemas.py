"""Validates values against JSON Schemas of engines and tools, at a bounded cost.

`jsonschema` searches patterns by backtracking and compares the elements of a set pair by pair: a hundred
kilobytes of a hostile input stop a gateway for minutes. Here patterns are searched in linear time, elements
are hashed, and a value that takes too many steps is given up.

Import it where something is validated, not at the top of a module: `jsonschema` takes a tenth of the time in
which a process starts, and most processes validate nothing.
"""

# what clients and providers send is checked by hand, not by types; jsonschema is partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

import jsonschema
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, extend, validator_for
from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as Mismatch
from referencing import Registry
from referencing.exceptions import Unresolvable

from mainstem_shared import errors
from mainstem_shared.model import jsontext

logger = logging.getLogger(__name__)

STEPS: Final = 200_000
"""Keywords that are applied to a value and its parts at most, however large it is."""
_STEPS_EACH: Final = 200
_STEPS_ALWAYS: Final = 10_000
"""Of these for a value with so many parts: alternatives that are tried on each level multiply."""
_SHOWN_CHARACTERS: Final = 300  # of a violation: its message quotes the offending value
_TEXT_LIMIT: Final = 64 * 1024  # characters in which a pattern is searched

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class TooCostly(Exception):
    """A value would take too long to check."""


class _Steps(threading.local):
    """What is left of the steps of this thread's validation."""

    left = STEPS


_steps: Final = _Steps()


def check(name: str, schema: dict[str, Any]) -> None:
    """Check that a schema is one.

    Raises:
        ValueError: it is not, says the message, which calls it by its name.
    """
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"{name} is no JSON Schema: {error.message}") from error


def validate(schema: bytes, run_input: dict[str, Any]) -> None:
    """Check an input against the text of a JSON Schema. A schema that is broken itself refuses nothing.

    Nor does one that leads back to itself, or a pattern with look-around: the worker's own model decides.

    Raises:
        InvalidInput: it does not fit.
    """
    begin(run_input)
    try:
        violation = best_match(_parsed(schema).iter_errors(run_input))
    except TooCostly as error:
        raise errors.InvalidInput("$: it is too large or too deep for its schema", path="$") from error
    except (ValueError, ArithmeticError, RecursionError, jsonschema.SchemaError, Unresolvable) as error:
        # Not the caller's fault; the worker's own model still stands between the input and the engine.
        logger.warning(
            "an announced schema is unusable", extra={"action": "validate", "why": str(error)[:300]}
        )
        return
    if violation is not None:
        message = violation.message
        if len(message) > _SHOWN_CHARACTERS:
            message = f"{message[:_SHOWN_CHARACTERS]}…"
        raise errors.InvalidInput(f"{violation.json_path}: {message}", path=violation.json_path)


@lru_cache(maxsize=256)
def _parsed(schema: bytes) -> Validator:
    return validator(jsontext.loads(schema))


def begin(value: Any) -> None:
    """Set the step budget of this thread's next validation, by the size of the value."""
    _steps.left = min(STEPS, _STEPS_ALWAYS + _STEPS_EACH * _parts(value))


def _parts(value: Any) -> int:
    count, left = 0, [value]
    while left:
        count, one = count + 1, left.pop()
        left.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
    return count


def validator(schema: Any) -> Validator:
    """Return a validator of a parsed schema, which never fetches anything; call `begin` before each use.

    Raises:
        SchemaError: it is no JSON Schema.
    """
    kind = Draft202012Validator
    if isinstance(schema, dict):
        kind = validator_for(schema, default=kind)
    kind.check_schema(schema)
    if isinstance(schema, dict):  # its `$schema` would make it choose a class of its own again
        schema = {name: value for name, value in schema.items() if name != "$schema"}
    return _bounded(kind)(schema, registry=Registry())


@lru_cache(maxsize=16)
def _bounded(kind: type[Validator]) -> type[Validator]:
    own: dict[str, Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    known: dict[str, Keyword] = dict(kind.VALIDATORS)
    counted = {name: _counted(own.get(name, keyword)) for name, keyword in known.items()}
    return extend(kind, validators=counted)


def _counted(keyword: Keyword) -> Keyword:
    def applied(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        _steps.left -= 1
        if _steps.left < 0:
            raise TooCostly
        return keyword(validator, value, instance, schema)

    return applied


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, _: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, inner in patterns.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    named, patterns = schema.get("properties", {}), tuple(schema.get("patternProperties", {}))
    extras = [
        name
        for name in instance
        if name not in named and not any(_matches(pattern, name) for pattern in patterns)
    ]
    if validator.is_type(allowed, "object"):
        for name in extras:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extras:
        shown = ", ".join(repr(name) for name in extras)
        verb = "was" if len(extras) == 1 else "were"
        yield ValidationError(f"Additional properties are not allowed ({shown} {verb} unexpected)")


def _unique_items(validator: Any, wanted: bool, instance: Any, _: Any) -> Iterator[ValidationError]:  # noqa: FBT001
    if not wanted or not validator.is_type(instance, "array"):
        return
    if len({json.dumps(_canonical(item), sort_keys=True) for item in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _canonical(value: Any) -> Any:
    """Return a value such that equal ones have one JSON text: 1.0 is 1."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _canonical(item) for name, item in value.items()}
        case list():
            return [_canonical(item) for item in value]
        case _:
            return value


def _matches(pattern: str, text: str) -> bool:
    """Search a pattern in linear time; what cannot be (look-around, back references) counts as found."""
    if len(text) > _TEXT_LIMIT:
        raise TooCostly
    search = _search(pattern)
    if search is None:
        return True
    try:
        search.validate_python(text)
    except Mismatch:
        return False
    return True


@lru_cache(maxsize=256)
def _search(pattern: str) -> SchemaValidator | None:
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return None
