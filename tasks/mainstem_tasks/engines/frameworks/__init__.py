"""Holds what the engines of all frameworks share: an agent's conversation, tool calls, provider calls."""
