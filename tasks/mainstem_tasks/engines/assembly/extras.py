"""Keeps the members of messages and calls that only their provider understands, and adds up their pieces.

What came under a name goes back under the same name: reasoning that thinking modes demand back, the
signatures that prove it, references. Only names of this table are kept: strict providers refuse members they
do not know.
"""

# What providers send is checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

MESSAGE: Final[Mapping[str, str]] = {
    "reasoning_content": "DeepSeek, Kimi, GLM, Qwen, vLLM, SGLang, llama.cpp",
    "reasoning": "OpenRouter, Groq, vLLM, Ollama",
    "reasoning_details": "OpenRouter, MiniMax",
    "reasoning_text": "GitHub Copilot",
    "reasoning_opaque": "GitHub Copilot",
    "thinking": "Ollama",
    "thinking_blocks": "LiteLLM before Claude",
    "encrypted_content": "xAI",
    "extra_content": "Gemini",
    "thought_signature": "proxies before Gemini",
}
"""Members of an assistant message, and who sends them."""
CALL: Final[Mapping[str, str]] = {
    "extra_content": "Gemini (`google.thought_signature`)",
    "thought_signature": "proxies before Gemini",
    "provider_specific_fields": "LiteLLM before Gemini",
}
"""Members of a tool call, and who sends them."""
_GROWING: Final = frozenset({*MESSAGE, "text", "summary", "data", "content", "thinking"}) - {
    "thought_signature"
}
"""Texts that come in pieces; any other text is said again as a whole."""
LIMIT: Final = 256 * 1024
"""Characters of extras that are kept of one answer: they stand in every later request and checkpoint."""


def of(members: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Return the members that go back to their provider."""
    if members.keys().isdisjoint(known):
        return {}
    return {
        name: value for name, value in members.items() if name in known and value not in (None, "", [], {})
    }


def add(kept: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the next piece of the same message's or call's members to those that are kept."""
    for name, value in more.items():
        kept[name] = _sum(name, kept[name], value) if name in kept else _own(value)


def _own(value: Any) -> Any:
    match value:
        case dict():
            return {name: _own(item) for name, item in value.items()}
        case list():
            return [_own(item) for item in value]
        case _:
            return value


def _sum(name: str, kept: Any, more: Any) -> Any:
    match kept, more:
        case str(), str():
            return kept + more if name in _GROWING else more or kept
        case dict(), dict():
            add(kept, more)
            return kept
        case list(), list():
            for item in more:
                _add_item(kept, item)
            return kept
        case _:
            return kept if more is None else _own(more)


def _add_item(items: list[Any], item: Any) -> None:
    """Add a list's item, to the one with the same `index` and `type` if there is one."""
    if isinstance(item, Mapping) and "index" in item:
        for known in items:
            if isinstance(known, dict) and all(known.get(k) == item.get(k) for k in ("index", "type")):
                add(known, {name: value for name, value in item.items() if name not in ("index", "type")})
                return
    items.append(_own(item))


def without(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages without any such member, for a provider that refuses its own."""
    return [
        {
            name: [_bare(call) for call in value] if name == "tool_calls" else value
            for name, value in message.items()
            if name not in MESSAGE or message.get("role") != "assistant"
        }
        for message in messages
    ]


def _bare(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name not in CALL}


def names_in(messages: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the names of such members in the messages."""
    said = [message for message in messages if message.get("role") == "assistant"]
    found = {name for message in said for name in message if name in MESSAGE}
    return found | {
        name for message in said for call in message.get("tool_calls") or () for name in call if name in CALL
    }
