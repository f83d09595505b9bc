import os

SECRET_KEY = "an example has no secrets"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "chat.urls"
CELERY_BROKER_URL = os.environ["MAINSTEM_BROKER_URL"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "chat.db"}}
