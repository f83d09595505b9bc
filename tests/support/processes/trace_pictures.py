"""Draws the spans of one trace as a picture: what `docs/images/trace.svg` shows is what a collector exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, NAMES, ROW = 960, 380, 26
COLOURS = {2: "#3b82f6", 3: "#d97706", 4: "#0d9488", 5: "#6366f1"}
"""By kind: server, client, producer, consumer; all others are internal."""
INTERNAL = "#94a3b8"
_STYLE = "text { font: 13px system-ui, sans-serif; fill: #334155 } .time { font-size: 12px; fill: #64748b }"


def waterfall(spans: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG: one line for each span, indented below its parent, with a bar of its time."""
    rows = list(_ordered(spans))
    begin = min(span["begin_ns"] for span in spans)
    scale = (WIDTH - NAMES - 90) / (max(span["end_ns"] for span in spans) - begin)
    height = ROW * len(rows) + 12
    drawn = [_row(number, depth, span, begin, scale) for number, (depth, span) in enumerate(rows)]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return "\n".join(
        [
            opening,
            f"<style>{_STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            *drawn,
            "</svg>\n",
        ]
    )


def _row(number: int, depth: int, span: Mapping[str, Any], begin: int, scale: float) -> str:
    top = ROW * number + 6
    left = NAMES + (span["begin_ns"] - begin) * scale
    width = max(2.0, (span["end_ns"] - span["begin_ns"]) * scale)
    milliseconds = (span["end_ns"] - span["begin_ns"]) / 1e6
    fill = COLOURS.get(span["kind"], INTERNAL)
    return (
        f'<text x="{8 + 16 * depth}" y="{top + 15}">{escape(span["name"])}</text>'
        f'<rect x="{left:.1f}" y="{top + 4}" width="{width:.1f}" height="14" rx="3" fill="{fill}"/>'
        f'<text class="time" x="{left + width + 6:.1f}" y="{top + 15}">{milliseconds:.0f} ms</text>'
    )


def _ordered(spans: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each span after its parent, with its depth; those of one parent by their begin."""
    known = {span["id"] for span in spans}
    below: dict[str, list[Mapping[str, Any]]] = {}
    for span in sorted(spans, key=lambda one: one["begin_ns"]):
        below.setdefault(span["parent"] if span["parent"] in known else "", []).append(span)
    waiting = [(0, span) for span in reversed(below.get("", []))]
    while waiting:
        depth, span = waiting.pop()
        yield depth, span
        waiting += [(depth + 1, child) for child in reversed(below.get(span["id"], []))]
