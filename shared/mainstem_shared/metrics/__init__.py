"""Declares every metric of Mainstem's processes, in one table, and counts what happens in this process.

`catalogue` is the table: name, type, labels, meaning, who exports it. `exposition` serves it. Nothing of a
user may stand in a label: `labels` bounds what comes from outside.
"""

from __future__ import annotations
