"""Assembles a model's streamed answer, whatever protocol it came in, into one message and one verdict.

Pure: no sockets, no SDK, no run. An engine reads its protocol into `pieces`, feeds them to
`messages.Assembler`, emits the increments it returns, and acts on the `Message` at the end.
"""
