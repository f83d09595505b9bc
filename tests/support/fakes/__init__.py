"""Counterparts that answer exactly what a test scripts."""
