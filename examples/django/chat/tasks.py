"""Engines stand beside tasks: Celery finds both."""

from mainstem_tasks import engine


@engine("echo")
async def echo(run):
    for word in run.input["words"].split():
        await run.text(f"{word} ")
