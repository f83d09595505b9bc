"""`mainstem up` runs the whole stack on one machine, in the foreground, as one process group."""

from mainstem_api.stack._ports import PortTakenError
from mainstem_api.stack._stack import AlreadyRunningError, Stack, program
from mainstem_api.stack._tether import hold_tether

__all__ = ["AlreadyRunningError", "PortTakenError", "Stack", "hold_tether", "program"]
