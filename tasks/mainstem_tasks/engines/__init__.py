"""Holds the engines `demo` and `openai`, and adapters that serve other frameworks' agents as engines."""
