"""The Python client: `AsyncRuns`, and `Runs` for programs without an event loop."""
