"""The Vercel AI SDK: `stream` says what a run is in its words, `messages` reads what its clients send.

`routes` is the only module with I/O. Tested against the real packages in `tests/stock_clients`.
"""
