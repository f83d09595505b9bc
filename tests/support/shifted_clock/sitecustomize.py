"""Shifts the wall clock of a Python process, as a machine has it whose clock is wrong, or is set.

Python imports it at its start from a directory of PYTHONPATH. The file WALL_CLOCK says by how many seconds the
clock is ahead, as a double; whoever writes to it makes the clock step. Steady clocks go as they do.
"""

import mmap
import os
import struct
import time
from pathlib import Path

with Path(os.environ["WALL_CLOCK"]).open("rb") as _file:
    _ahead = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
_time, _time_ns, _seconds = time.time, time.time_ns, struct.Struct("d")
time.time = lambda: _time() + _seconds.unpack_from(_ahead)[0]
time.time_ns = lambda: _time_ns() + int(_seconds.unpack_from(_ahead)[0]) * 10**9
