"""`python -m mainstem_workers worker …`: runs one worker process. `mainstem worker` ends up here."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

from mainstem_shared.logs import FORMAT, FieldFormatter

POOL: Final = "mainstem_workers.pool:TaskPool"


def main(arguments: list[str] | None = None) -> None:
    """Run Celery's worker with our app and pool; `arguments` are those of `celery worker`."""
    os.environ["CELERY_CUSTOM_WORKER_POOL"] = POOL  # read when Celery's pools are imported: before all else

    from celery import signals

    from mainstem_shared.settings import Settings
    from mainstem_workers.app import make_app

    settings = Settings()
    given = sys.argv[1:] if arguments is None else arguments
    given = given[1:] if given[:1] == ["worker"] else given
    pool = ("--pool", "custom", "--concurrency", str(settings.concurrency))
    options = ("--without-gossip", "--without-mingle", "-E", *given)
    signals.after_setup_logger.connect(_show_fields, weak=False)
    make_app(settings).worker_main(["--quiet", "worker", *pool, *options])


def _show_fields(logger: logging.Logger, **_: Any) -> None:
    """Show the fields of our log lines; Celery's own format knows only the message."""
    for handler in logger.handlers:
        handler.setFormatter(FieldFormatter(FORMAT))


if __name__ == "__main__":
    main()
