"""Start a run from a program that has only Celery, and follow it over HTTP. Nothing here imports Mainstem."""

import base64
import hashlib
import os
import sys
import uuid
from time import sleep
from urllib.error import HTTPError
from urllib.request import urlopen

from celery import Celery

thread, task = "thread-1", uuid.uuid4()
asked = {"thread_id": thread, "engine": "echo", "input": {"words": sys.argv[1]}, "user_id": "local"}
Celery(broker=os.environ["MAINSTEM_BROKER_URL"]).send_task("mainstem.submit", task_id=str(task), kwargs=asked)

tag = hashlib.blake2b(f"default\0{thread}".encode(), digest_size=10).digest()
run_id = "_".join(base64.b32encode(part).decode().rstrip("=").lower() for part in (tag, task.bytes))
for _ in range(100):
    try:
        with urlopen(f"{os.environ['GATEWAY']}/v1/runs/{run_id}/events") as events:
            for line in events:
                print(line.decode(), end="")
            break
    except HTTPError:  # no worker has taken the message yet
        sleep(0.1)
