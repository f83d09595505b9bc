"""`python -m mainstem_workers worker …` runs one worker process; `mainstem worker` ends up here."""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any, Final

from mainstem_shared import garbage_collection, log_lines, tracing

POOL: Final = "mainstem_workers.pool:TaskPool"


def main(arguments: list[str] | None = None) -> None:
    """Run Celery's worker with our app and pool; `arguments` are those of `celery worker`."""
    os.environ["CELERY_CUSTOM_WORKER_POOL"] = POOL  # read when Celery's pools are imported: before all else

    from celery import signals
    from celery.exceptions import SecurityWarning

    from mainstem_shared import errors
    from mainstem_shared.settings import Settings
    from mainstem_workers.app import make_app

    settings = Settings()
    tracing.set_up("mainstem-worker")
    log_lines.quieten()
    given = sys.argv[1:] if arguments is None else arguments
    given = given[1:] if given[:1] == ["worker"] else given
    pool = ("--pool", "custom", "--concurrency", str(settings.concurrency))
    options = ("--without-gossip", "--without-mingle", "-E", *given)

    def show_fields(logger: logging.Logger, **_: Any) -> None:
        """Show the fields of our log lines; Celery's own format knows only the message."""
        for handler in logger.handlers:
            handler.setFormatter(log_lines.formatter(settings.log_format))

    signals.after_setup_logger.connect(show_fields, weak=False)
    signals.after_setup_task_logger.connect(show_fields, weak=False)
    # A paragraph on stderr, out of fear of pickle, which our app does not take: below we say it in a line.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.worker_ready.connect(_tell_of_root, weak=False)
    signals.worker_ready.connect(_freeze, weak=False)
    try:
        app = make_app(settings)
    except errors.Misconfigured as error:
        sys.exit(str(error))
    app.worker_main(["--quiet", "worker", *pool, *options])


def _tell_of_root(**_: Any) -> None:
    """Where C_FORCE_ROOT is set, somebody has decided already."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and not os.environ.get("C_FORCE_ROOT"):
        logging.getLogger("mainstem_workers").info(
            "running as root: in production give it a user of its own", extra={"action": "running_as_root"}
        )


def _freeze(**_: Any) -> None:
    garbage_collection.freeze()


if __name__ == "__main__":
    main()
