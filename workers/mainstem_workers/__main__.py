"""`python -m mainstem_workers worker …`: runs one worker process. `mainstem worker` ends up here."""

from __future__ import annotations

import os
import sys
from typing import Final

POOL: Final = "mainstem_workers.pool:TaskPool"


def main(arguments: list[str] | None = None) -> None:
    """Run Celery's worker with our app and pool; `arguments` are those of `celery worker`."""
    os.environ["CELERY_CUSTOM_WORKER_POOL"] = (
        POOL  # Celery reads it when its pools are imported: before all else
    )

    from mainstem_shared.settings import Settings
    from mainstem_workers.app import make_app

    settings = Settings()
    given = sys.argv[1:] if arguments is None else arguments
    given = given[1:] if given[:1] == ["worker"] else given
    defaults = [
        "worker",
        "--pool",
        "custom",
        "--concurrency",
        str(settings.concurrency),
        "--without-gossip",
        "--without-mingle",
        "-E",
    ]
    make_app(settings).worker_main([*defaults, *given])


if __name__ == "__main__":
    main()
