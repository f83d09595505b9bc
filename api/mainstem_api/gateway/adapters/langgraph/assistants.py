"""Serves engines as assistants, and refuses by name what is not served: crons, the store, written states."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from mainstem_api.gateway.adapters.langgraph.answers import ANSWER, PREFIX, as_json
from mainstem_api.gateway.adapters.langgraph.requests import Search
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_shared import errors
from mainstem_shared.model.runs import ThreadId
from mainstem_shared.operations import engine_catalogue

router = APIRouter(prefix=PREFIX, tags=["langgraph"])


@router.post("/assistants/search", response_class=Response, responses=ANSWER)
async def search_assistants(body: Search, gateway: Serving, caller: Caller) -> Response:
    """List the engines that workers offer, as assistants."""
    del caller
    known = await engine_catalogue.engines(gateway.store)
    names = sorted(name for name in known if body.graph_id in (None, name))
    return as_json([_assistant(name) for name in names[body.offset : body.offset + body.limit]])


@router.get("/assistants/{assistant_id}", response_class=Response, responses=ANSWER)
async def get_assistant(assistant_id: str, gateway: Serving, caller: Caller) -> Response:
    """Describe one engine as an assistant."""
    del caller
    if assistant_id not in await engine_catalogue.engines(gateway.store):
        raise errors.NotFound("No such assistant.")
    return as_json(_assistant(assistant_id))


@router.get("/assistants/{assistant_id}/schemas", response_class=Response, responses=ANSWER)
async def get_schemas(assistant_id: str, gateway: Serving, caller: Caller) -> Response:
    """Return the schema of an engine's input."""
    del caller
    known = await engine_catalogue.engines(gateway.store)
    if assistant_id not in known:
        raise errors.NotFound("No such assistant.")
    empty = dict.fromkeys(("output_schema", "state_schema", "config_schema", "context_schema"))
    return as_json({"graph_id": assistant_id, "input_schema": known[assistant_id], **empty})


def _assistant(name: str) -> dict[str, Any]:
    about: dict[str, Any] = {"config": {}, "context": {}, "metadata": {}, "version": 1, "description": None}
    at = "1970-01-01T00:00:00Z"
    return {"assistant_id": name, "graph_id": name, "name": name, "created_at": at, "updated_at": at, **about}


# -- what is not served


@router.post("/threads/{thread_id}/state", response_class=Response, responses=ANSWER)
async def update_state(thread_id: ThreadId, caller: Caller) -> Response:
    """Refuse to write a state: a thread's is what its runs said."""
    del thread_id, caller
    raise errors.NotFound("A state is not written here: it is what the thread's runs said; start one.")


@router.post("/runs/crons", response_class=Response, responses=ANSWER)
@router.post("/threads/{thread_id}/runs/crons", response_class=Response, responses=ANSWER)
async def create_cron(caller: Caller) -> Response:
    """Refuse schedules by name."""
    del caller
    raise errors.NotFound("Crons are not served here: start runs from a scheduler.")


@router.get("/store/{path:path}", response_class=Response, responses=ANSWER)
@router.put("/store/{path:path}", response_class=Response, responses=ANSWER)
@router.post("/store/{path:path}", response_class=Response, responses=ANSWER)
@router.delete("/store/{path:path}", response_class=Response, responses=ANSWER)
async def use_store(path: str, caller: Caller) -> Response:
    """Refuse the store by name."""
    del path, caller
    raise errors.NotFound("There is no store here: engines keep what they need on the thread (run.memory).")
