"""The Celery side: `celery -A worker worker --pool custom`."""

import os

from celery import Celery

from mainstem_tasks import engine
from mainstem_workers import install

app = Celery("chat", broker=os.environ["MAINSTEM_BROKER_URL"])
install(app)


@engine("echo")
async def echo(run):
    for word in run.input["words"].split():
        await run.text(f"{word} ")
