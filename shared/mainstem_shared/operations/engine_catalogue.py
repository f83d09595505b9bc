"""The catalogue of engines that workers announced: which names exist, and which input fits them.

Workers write it (`keys.ENGINES`); whoever starts runs asks it. Until the first announcement everything is
accepted: the worker that claims the run decides then.
"""

from __future__ import annotations

import asyncio
import logging
from functools import lru_cache
from typing import Any, Final

from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

log = logging.getLogger(__name__)

_QUICK_BYTES: Final = 32 * 1024
"""Inputs up to this size are validated on the loop (about a millisecond); larger ones in a thread."""
_SHOWN_CHARACTERS: Final = 300  # of a violation: its message quotes the offending value


async def engines(store: Store) -> dict[str, dict[str, Any]]:
    """Return all announced engines with their input schemas."""
    announced: Any = await store.patiently(lambda: store.client.hgetall(keys.ENGINES))
    return {name.decode(): jsontext.loads(schema or b"{}") for name, schema in sorted(announced.items())}


async def schema_of(store: Store, engine: str) -> dict[str, Any] | None:
    """Return an announced engine's input schema; None if none of this name was announced."""
    schema: Any = await store.patiently(lambda: store.client.hget(keys.ENGINES, engine))
    return None if schema is None else jsontext.loads(schema or b"{}")


async def check(store: Store, engine: str, run_input: dict[str, Any], *, size: int) -> None:
    """Refuse an engine or an input that no worker would take. `size`: the input's bytes of JSON.

    Raises:
        UnknownEngine: engines were announced, but none of this name.
        InvalidInput: the engine's schema refuses the input; says where.
    """
    schema: Any = await store.patiently(lambda: store.client.hget(keys.ENGINES, engine))
    if schema is None:
        known: Any = await store.patiently(lambda: store.client.hkeys(keys.ENGINES))
        if known and engine.encode() not in known:  # announced this very moment: the worker decides
            names = ", ".join(sorted(name.decode() for name in known))
            raise errors.UnknownEngine(engine=engine, known=names)
    elif size <= _QUICK_BYTES:
        validate(schema, run_input)
    else:
        await asyncio.to_thread(validate, schema, run_input)


def validate(schema: bytes, run_input: dict[str, Any]) -> None:
    """Check an input against the text of a JSON Schema. A schema that is broken itself refuses nothing.

    Raises:
        InvalidInput: it does not fit.
    """
    try:
        violation = best_match(_validator(schema).iter_errors(run_input))
    except (ValueError, SchemaError, Unresolvable) as error:
        # Not the caller's fault; the worker's own model still stands between the input and the engine.
        log.warning("An announced schema is unusable", extra={"action": "validate", "why": str(error)[:300]})
        return
    if violation is not None:
        message = violation.message
        if len(message) > _SHOWN_CHARACTERS:
            message = f"{message[:_SHOWN_CHARACTERS]}…"
        raise errors.InvalidInput(f"{violation.json_path}: {message}", path=violation.json_path)


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Validator:
    parsed: Any = jsontext.loads(schema)
    kind = validator_for(parsed, default=Draft202012Validator)
    kind.check_schema(parsed)
    return kind(parsed, registry=Registry())  # an empty registry: `$ref` never makes us fetch anything
