"""Old path of what is in `mainstem_tasks` now."""

from mainstem_shared.deprecation import moved

__getattr__ = moved(__name__, {"MissingExtraError": "mainstem_tasks", "engine": "mainstem_tasks"})
