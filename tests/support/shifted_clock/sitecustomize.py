"""Shifts the wall clock of a Python process, as a machine has it whose clock is wrong.

Python imports it at its start from a directory of PYTHONPATH; WALL_CLOCK_AHEAD_S tells by how much. Steady
clocks go as they do.
"""

import os
import time

_AHEAD_S = float(os.environ["WALL_CLOCK_AHEAD_S"])
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _AHEAD_S
time.time_ns = lambda: _time_ns() + int(_AHEAD_S * 1e9)
