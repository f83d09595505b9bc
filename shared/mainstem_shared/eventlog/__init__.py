"""The event log of a run: `writing` appends to it, `reading` follows it; neither knows the other."""
