"""Parses source files for tests that read code."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor


def parse(source: str) -> ast.Module:
    """Parse in a thread of its own.

    CPython counts the parser's depth for the whole interpreter: a test that overflowed the stack before leaves
    "AST constructor recursion depth mismatch" behind in its thread.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(ast.parse, source).result()
