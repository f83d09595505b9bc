"""Engines stand beside tasks: Celery finds both. The task stores the final message, once."""

from celery import shared_task
from django.db import connection

from mainstem_api.callbacks import on_run_end
from mainstem_tasks import engine


@engine("echo")
async def echo(run):
    for word in run.input["words"].split():
        await run.text(f"{word} ")


@shared_task(name="chat.store", acks_late=True, reject_on_worker_lost=True, autoretry_for=(Exception,))
@on_run_end(django="default")
def store(event):
    run = event["data"]["run"] or event["data"]  # without its content, if it is deleted
    with connection.cursor() as cursor:  # yours: a model
        cursor.execute("CREATE TABLE IF NOT EXISTS messages (run TEXT, thread TEXT, text TEXT)")
        row = [run["run_id"], run["thread_id"], run.get("text", "")]
        cursor.execute("INSERT INTO messages VALUES (%s, %s, %s)", row)
