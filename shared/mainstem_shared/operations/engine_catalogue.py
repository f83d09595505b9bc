"""The catalogue lists the engines that workers announced, and checks a run's input against their schemas.

Workers write it (`keys.ENGINES`); whoever starts runs asks it. Until the first announcement everything is
accepted: the worker that claims the run decides then.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final, get_args

from mainstem_shared import errors
from mainstem_shared.metrics import labels
from mainstem_shared.model import jsontext, runs
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

_QUICK_BYTES: Final = 32 * 1024
"""Inputs up to this size are validated on the loop (about a millisecond); larger ones in a thread."""
_VALIDATION: Final = "mainstem_shared.model.bounded_schemas"
"""Its import takes a tenth of a second, which is not the loop's either."""


async def engines(store: Store) -> dict[str, dict[str, Any]]:
    """Return all announced engines with their input schemas; none while only their server is unavailable."""
    if not await _is_there(store):
        return {}
    announced: Any = await store.command("HGETALL", keys.ENGINES, large=True)
    return {name.decode(): jsontext.loads(schema or b"{}") for name, schema in sorted(announced.items())}


async def schema_of(store: Store, engine: str) -> dict[str, Any] | None:
    """Return an announced engine's input schema; None if none of this name was announced."""
    schema: Any = await store.command("HGET", keys.ENGINES, engine)
    return None if schema is None else jsontext.loads(schema or b"{}")


async def check(store: Store, engine: str, run_input: dict[str, Any], *, size: int) -> runs.Priority | None:
    """Refuse an engine or an input that no worker would take; returns the engine's class of runs, if any.

    `size`: the input's bytes of JSON. While the catalogue's server alone is unavailable, the worker that
    claims the run decides.

    Raises:
        UnknownEngine: engines were announced, but none of this name.
        InvalidInput: the engine's schema refuses the input; says where.
    """
    if not await _is_there(store):
        return None
    schema: Any = await store.command("HGET", keys.ENGINES, engine)
    if schema is not None:
        labels.know_engines([engine])
    if schema is None:
        known: Any = await store.command("HKEYS", keys.ENGINES)
        if known and engine.encode() not in known:  # announced this very moment: the worker decides
            names = ", ".join(sorted(name.decode() for name in known))
            raise errors.UnknownEngine(engine=engine, known=names)
    elif size <= _QUICK_BYTES and _VALIDATION in sys.modules:
        _validate(schema, run_input)
    else:
        await asyncio.to_thread(_validate, schema, run_input)
    return _priority(schema)


def _priority(schema: bytes | None) -> runs.Priority | None:
    """Return the class that an engine announces; one that this process does not know counts as none."""
    if schema is None or runs.PRIORITY_MEMBER.encode() not in schema:
        return None
    found = jsontext.loads(schema).get(runs.PRIORITY_MEMBER)
    return found if found in get_args(runs.Priority) else None


def _validate(schema: bytes, run_input: dict[str, Any]) -> None:
    from mainstem_shared.model import bounded_schemas

    bounded_schemas.validate(schema, run_input)


async def _is_there(store: Store) -> bool:
    """Tell whether the catalogue's server is there; the only server of a store is taken to be."""
    try:
        (is_there,) = await store.there([keys.ENGINES])
    except errors.StoreUnavailable:
        return False
    return is_there
