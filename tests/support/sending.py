"""Sends one command once, over the connection that a store's short calls share."""

from __future__ import annotations

from typing import Any

from mainstem_shared.store.client import Store


async def sent(store: Store, *command: Any) -> Any:
    """Return the reply; what a lost connection or a refusal raises is raised as it is."""
    node = await store.node_of(str(command[1]) if len(command) > 1 else "")
    return (await node.send([command]))[0]
