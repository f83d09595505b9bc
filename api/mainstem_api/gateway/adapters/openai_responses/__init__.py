"""OpenAI's Responses API, background mode: `translator` makes events, `sequencer` numbers them.

A response is a run up to its first pause, or from one pause to the next; `ids` has the ids. What an
event's number means, and why it never changes, stands in `sequencer`.
"""
