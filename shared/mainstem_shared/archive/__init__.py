"""The archive keeps finished runs in an SQL database, once the store has let go of them.

SQLAlchemy is imported here only, and only where MAINSTEM_ARCHIVE_URL is set. What is kept of a run is what
the store had of it: its record and its final event, so that readers build the same from either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainstem_shared import errors
from mainstem_shared.settings import Settings

if TYPE_CHECKING:
    from mainstem_shared.archive.database import Archive


def connect(settings: Settings) -> Archive | None:
    """Return the archive that the settings name; None without one. Connects on first use.

    Raises:
        Misconfigured: its address is none, or the extra `archive` is not installed.
    """
    address = settings.archive_address
    if address is None:
        return None
    try:
        from mainstem_shared.archive.database import Archive
    except ImportError as error:
        raise errors.Misconfigured(
            f"MAINSTEM_ARCHIVE_URL needs {error.name}: pip install 'mainstem[archive]'."
        ) from error
    return Archive(address)
