"""A2A's methods about push notifications: name, describe, list and remove who is told of a task."""

from __future__ import annotations

from typing import Any

from mainstem_api.gateway.adapters.a2a.requests import PushConfig, PushListQuery, PushQuery
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model.callbacks import EventType, Receiver
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations import push_receivers


def callback(config: PushConfig | None) -> dict[str, Any] | None:
    """Return the callback of a run whose first message names a receiver."""
    if config is None:
        return None
    return {"url": config.receiver.target, "events": [EventType.REQUIRES_ACTION]}


async def put(gateway: Gateway, task_id: str, config: PushConfig, caller: Principal) -> None:
    """Have a receiver told of a task that there is already."""
    await push_receivers.put(gateway.operations, task_id, config.receiver, caller)


async def create(params: Any, gateway: Gateway, caller: Principal) -> dict[str, Any]:
    """Name a receiver, or replace the one of this id."""
    config = PushConfig.model_validate(params)
    await put(gateway, config.task_id, config, caller)
    return _described(config.task_id, config.receiver)


async def get(params: Any, gateway: Gateway, caller: Principal) -> dict[str, Any]:
    """Describe a receiver."""
    query = PushQuery.model_validate(params)
    found = await push_receivers.listed(gateway.operations, query.task_id, caller)
    for receiver in found:
        if receiver.id == query.id:
            return _described(query.task_id, receiver)
    raise errors.NotFound("No such push notification configuration.")


async def list_all(params: Any, gateway: Gateway, caller: Principal) -> dict[str, Any]:
    """List the receivers of a task."""
    task_id = PushListQuery.model_validate(params).task_id
    found = await push_receivers.listed(gateway.operations, task_id, caller)
    return {"configs": [_described(task_id, receiver) for receiver in found], "nextPageToken": ""}


async def delete(params: Any, gateway: Gateway, caller: Principal) -> dict[str, Any]:
    """Tell a receiver no more."""
    query = PushQuery.model_validate(params)
    await push_receivers.remove(gateway.operations, query.task_id, query.id, caller)
    return {}


def _described(task_id: str, receiver: Receiver) -> dict[str, Any]:
    shown = {"authentication": {"scheme": receiver.scheme}} if receiver.scheme else {}
    named = {"token": receiver.token} if receiver.token else {}
    return {"id": receiver.id, "taskId": task_id, "url": receiver.url, **named, **shown}
