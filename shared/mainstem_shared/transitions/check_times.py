"""Delays after which a sweeper checks a run, by what was asked last: start, stop, input.

Each verb writes the look into its bucket's index as it changes the run: whoever heals a crash finds the run.
"""

from __future__ import annotations

from typing import Final

FIRST_MS: Final = 5000
"""After a start: is it published?"""
STOP_MS: Final = 1000
"""After a stop: was it carried out?"""
STEER_MS: Final = 2000
"""After an input: does the owner know of it?"""
MESSAGE_MS: Final = FIRST_MS
"""After a run is queued again: did its message go out?"""
