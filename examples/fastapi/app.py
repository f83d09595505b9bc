"""The web side: start a run in a view, follow it by server-sent events. `uvicorn app:app`."""

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from mainstem_api import AsyncRuns, sse

app = FastAPI()
runs = AsyncRuns()


def user_of(request: Request):
    return request.headers.get("X-User", "local")  # yours: your session's


@app.post("/chats/{thread_id}", status_code=202)
async def start(thread_id: str, words: dict, request: Request):
    told = {"task": "chat.store"}
    started = await runs.start(thread_id, "echo", words, user_id=user_of(request), callback=told)
    return {"run_id": started.run_id}


@app.get("/runs/{run_id}/events")
async def follow(run_id: str, request: Request):
    after = request.headers.get("Last-Event-ID")
    status, lines = await sse.astream(runs, run_id, after, user_id=user_of(request))
    return StreamingResponse(lines, status_code=status, media_type="text/event-stream")
