"""Protocol adapters: our events in the words of the frontends that teams already have.

Each protocol is a pure module with a `translation.Translator`, and a module with its routes. All of them send
through `streams.EventStream`. `docs/frontends.md` says what each protocol gets.
"""
