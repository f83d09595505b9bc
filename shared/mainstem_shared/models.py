"""Old path of what is in `mainstem_shared.model.runs` now."""

from mainstem_shared.deprecation import moved

__getattr__ = moved(
    __name__,
    {
        "Run": "mainstem_shared.model.runs",
        "Status": "mainstem_shared.model.runs",
        "Reason": "mainstem_shared.model.runs",
        "WaitingFor": "mainstem_shared.model.runs",
        "Usage": "mainstem_shared.model.usage",
        "ErrorInfo": "mainstem_shared.model.runs",
        "Spec": "mainstem_shared.model.runs",
        "StartRequest": "mainstem_shared.model.runs",
    },
)
