"""The web side: start a run in a view, follow it by server-sent events. `flask run`."""

import json

from flask import Flask, Response, request

from mainstem_api import Runs

app = Flask(__name__)
runs = Runs()


@app.post("/chats/<thread_id>")
def start(thread_id):
    return {"run_id": runs.start(thread_id, "echo", request.get_json()).run_id}, 202


@app.get("/runs/<run_id>/events")
def follow(run_id):
    events = runs.events(run_id, request.headers.get("Last-Event-ID"))
    lines = (f"id: {e.cursor}\nevent: {e.type}\ndata: {json.dumps(e.data)}\n\n" for e in events)
    return Response(lines, mimetype="text/event-stream")
