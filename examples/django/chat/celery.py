"""Django's usual Celery module, and one line more: `celery -A chat worker --pool custom`."""

import os

from celery import Celery

from mainstem_workers import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
app = Celery("chat")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["chat"])
install(app)
