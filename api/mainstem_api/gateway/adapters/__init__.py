"""Protocol adapters translate runs into the protocols of frontends that teams already have.

Each protocol is a pure module with a `translator.Translator`, and a module with its routes. All of them send
through `sse.EventStream`. `docs/frontends.md` says what each protocol gets.
"""
