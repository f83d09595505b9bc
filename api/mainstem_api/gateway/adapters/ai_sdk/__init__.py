"""The Vercel AI SDK: `stream` translates a run into its parts, `messages` parses what its clients send.

`routes` is the only module with I/O. Tested against the real packages in `tests/stock_clients`.
"""
