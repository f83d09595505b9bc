"""The web side: start a run in a view, follow it by server-sent events. `flask run`."""

from flask import Flask, Response, request

from mainstem_api import Runs, sse

app = Flask(__name__)
runs = Runs()


def user():
    return request.headers.get("X-User", "local")  # yours: your session's


@app.post("/chats/<thread_id>")
def start(thread_id):
    told = {"task": "chat.store"}
    started = runs.start(thread_id, "echo", request.get_json(), user_id=user(), callback=told)
    return {"run_id": started.run_id}, 202


@app.get("/runs/<run_id>/events")
def follow(run_id):
    status, lines = sse.stream(runs, run_id, request.headers.get("Last-Event-ID"), user_id=user())
    return Response(lines, status=status, mimetype="text/event-stream")
