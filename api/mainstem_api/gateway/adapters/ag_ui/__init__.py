"""AG-UI 1.0: `events` translates a run into its events, `messages` reads and writes its messages.

`requests` reads what clients decide; `routes` is the only module with I/O. Tested against the real package in
`tests/stock_clients`.
"""
