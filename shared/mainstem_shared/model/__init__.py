"""Defines pure values and functions: runs, events, content, actions, cursors. No I/O."""
