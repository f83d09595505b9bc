"""Engines and tools that workers load in tests."""
