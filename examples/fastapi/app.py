"""The web side: start a run in a view; the mounted gateway serves its events. `uvicorn app:app`."""

from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from mainstem_api import AsyncRuns
from mainstem_api.gateway import create_app

gateway = create_app()


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with gateway.router.lifespan_context(gateway), AsyncRuns() as app.state.runs:
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/ai", gateway)  # readers follow /ai/v1/runs/{run_id}/events


@app.post("/chats/{thread_id}", status_code=202)
async def start(thread_id: str, words: dict, request: Request):
    told = {"task": "chat.store"}
    started = await request.app.state.runs.start(thread_id, "echo", words, callback=told)
    return {"run_id": started.run_id}
