"""Old path of what is in `mainstem_shared.model.principals` now."""

from mainstem_shared.deprecation import moved

__getattr__ = moved(
    __name__,
    {
        "Principal": "mainstem_shared.model.principals",
        "DEFAULT_TENANT": "mainstem_shared.model.principals",
        "LOCAL_USER": "mainstem_shared.model.principals",
    },
)
