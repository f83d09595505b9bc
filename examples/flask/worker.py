"""The Celery side: `celery -A worker worker --pool custom`. A task stores the final message, once."""

import os

from celery import Celery
from sqlalchemy import create_engine, text

from mainstem_api.callbacks import on_run_end
from mainstem_tasks import engine
from mainstem_workers import install

app = Celery("chat", broker=os.environ["MAINSTEM_BROKER_URL"])
install(app)
database = create_engine("sqlite:///chat.db")


@engine("echo")
async def echo(run):
    for word in run.input["words"].split():
        await run.text(f"{word} ")


@app.task(name="chat.store", acks_late=True, reject_on_worker_lost=True, autoretry_for=(Exception,))
@on_run_end(database)
def store(event, connection):
    run = event["data"]["run"] or event["data"]  # without its content, if it is deleted
    connection.execute(text("CREATE TABLE IF NOT EXISTS messages (run TEXT, thread TEXT, text TEXT)"))
    row = {"run": run["run_id"], "thread": run["thread_id"], "text": run.get("text", "")}
    connection.execute(text("INSERT INTO messages VALUES (:run, :thread, :text)"), row)
