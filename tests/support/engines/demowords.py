"""What the demo engine streams."""

from __future__ import annotations


def demo_text(tokens: int) -> str:
    return " ".join(f"w{k}" for k in range(tokens))
