"""Size ceilings of the shipped code: what no linter checks. `make check` calls it.

Ceilings are for the outlier; the median says whether the code reads well. Exceptions are named here, with
their reason.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOTS = ("api", "tasks", "workers", "shared")
FILE_LINES = 500
FUNCTION_LINES = 60

FILE_EXCEPTIONS: dict[str, str] = {}
FUNCTION_EXCEPTIONS: dict[str, str] = {}


def main() -> int:
    lengths: list[int] = []
    complaints: list[str] = []
    for path in source_files():
        text = path.read_text()
        lines = text.count("\n")
        if lines > FILE_LINES and str(path) not in FILE_EXCEPTIONS:
            complaints.append(f"{path}: {lines} lines, the ceiling is {FILE_LINES}")
        if path.suffix != ".py":
            continue
        for name, line, length in functions(text):
            lengths.append(length)
            if length > FUNCTION_LINES and f"{path}:{name}" not in FUNCTION_EXCEPTIONS:
                complaints.append(
                    f"{path}:{line}: {name} has {length} lines, the ceiling is {FUNCTION_LINES}"
                )
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(summary(lengths))
    return 1 if complaints else 0


MADE = {"node_modules", "dist", "openapi.ts"}
"""Folders and files of what is installed or built."""


def source_files() -> list[Path]:
    return sorted(
        path
        for root in ROOTS
        for pattern in ("*.py", "*.lua", "*.js", "*.ts", "*.css", "*.html")
        for path in Path(root).rglob(pattern)
        if not MADE & set(path.parts)
    )


def functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, first line and length of every function; decorators and docstrings count as part of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def summary(lengths: list[int]) -> str:
    if len(lengths) < 2:
        return "sizes: nothing to measure"
    ninetieth = statistics.quantiles(lengths, n=10)[-1]
    return (
        f"sizes: {len(lengths)} functions, median {statistics.median(lengths):g} lines, "
        f"90th percentile {ninetieth:g}, longest {max(lengths)}"
    )


if __name__ == "__main__":
    sys.exit(main())
