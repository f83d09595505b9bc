"""Readers follow logs: one tail connection reads 256 runs, one subscription serves one reader."""
