"""Puts the items that an input refers to (`item_reference`) in the place of the references."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from mainstem_api.gateway.adapters.openai_responses import ids
from mainstem_api.gateway.adapters.openai_responses.requests import CreateRequest
from mainstem_shared import errors

MOST: Final = 100
"""Runs that one input may refer to: each is a read of the store."""


async def resolved(
    body: CreateRequest, items_of: Callable[[str], Awaitable[list[dict[str, Any]]]]
) -> CreateRequest:
    """Return a request without references. `items_of` returns the items of a run that the caller may read.

    Raises:
        InvalidRequest: an item is not there, or is another's; `path` names the reference.
    """
    named = {at: str(item.get("id")) for at, item in enumerate(body.items) if _refers(item)}
    if not named:
        return body
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    items = list(body.items)
    for at, item_id in named.items():
        run_id = ids.run_of_item(item_id) or ""
        if run_id not in runs:
            runs[run_id] = await _of_run(run_id, items_of) if len(runs) < MOST else {}
        if item_id not in runs[run_id]:
            raise errors.InvalidRequest(f"Item with id {item_id[:80]!r} not found.", path=f"input[{at}]")
        items[at] = runs[run_id][item_id]
    return body.model_copy(update={"input": items})


def _refers(item: dict[str, Any]) -> bool:
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "id" in item and "role" not in item)


async def _of_run(
    run_id: str, items_of: Callable[[str], Awaitable[list[dict[str, Any]]]]
) -> dict[str, dict[str, Any]]:
    try:
        return {item["id"]: item for item in await items_of(run_id)} if run_id else {}
    except errors.NotFound:
        return {}
