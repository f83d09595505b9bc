"""Old path of what is in `mainstem_shared.log_lines` now."""

from mainstem_shared.deprecation import moved

__getattr__ = moved(
    __name__,
    dict.fromkeys(
        (
            "FORMAT",
            "FieldFormatter",
            "RUN_FIELDS",
            "RunFilter",
            "bound",
            "formatter",
            "json_formatter",
            "reach_handlers",
            "set_up",
        ),
        "mainstem_shared.log_lines",
    ),
)
