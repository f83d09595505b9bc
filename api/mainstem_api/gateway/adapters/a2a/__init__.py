"""A2A 1.0 over JSON-RPC: each engine is an agent, each run a task, each thread a context.

`translator` makes tasks and updates of a run, `requests` reads messages, `routes` has the I/O.
"""
