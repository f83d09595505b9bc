"""An ordinary Celery project with a task of its own, and an engine: `celery -A proj worker --pool custom`."""

import os
from pathlib import Path

from celery import Celery

from mainstem_tasks import engine
from mainstem_workers import install

app = Celery("proj", broker=os.environ["MAINSTEM_BROKER_URL"])
install(app)


@app.task
def remind(path, text):
    Path(path).write_text(text)


@engine("echo")
async def echo(run):
    for word in run.input["words"].split():
        await run.text(f"{word} ")
