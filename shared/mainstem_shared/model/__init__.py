"""What runs, events, content and decisions are: pure values and functions, no I/O and no clock."""
