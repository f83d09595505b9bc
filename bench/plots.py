"""The pictures and tables of docs/performance.md and docs/scaling.md, from the newest of bench/results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capacity
import matplotlib as mpl  # pyright: ignore[reportMissingImports] - of make bench alone
from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports] - of make bench alone

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = DOCS / "images"
MET, MISSED, OURS, OTHER = "#2a9d6f", "#d1495b", "#2b6cb0", "#a0aec0"
Rows = dict[str, dict[str, Any]]

Budget = tuple[str, str, Callable[[dict[str, Any]], float]]
BUDGETS: tuple[Budget, ...] = (
    ("burst against raw", "burst", lambda d: d["raw"] / d["ours"]),
    ("burst against naive", "burst", lambda d: 10 * d["naive"] / d["ours"]),
    ("1,000 × 50/s: CPU per token", "1,000 runs ×", lambda d: d["cpu_us"] / 12),
    ("1,000 × 50/s: lateness p99", "1,000 runs ×", lambda d: d["p99_ms"] / 50),
    ("1,000 × 50/s: memory", "1,000 runs ×", lambda d: d["rss_mb"] / 200),
    ("4,000 × 5/s: memory", "4,000 runs ×", lambda d: d["rss_mb"] / 280),
    ("delivery p50", "delivery", lambda d: d["p50"] / 3),
    ("delivery p99", "delivery", lambda d: d["p99"] / 15),
    ("first token p50", "enqueue", lambda d: d["p50"] / 15),
    ("first token p99", "enqueue", lambda d: d["p99"] / 60),
    ("starts against Celery's floor", "starts", lambda d: 0.6 * d["floor"] / d["ours"]),
    ("cold reconnect, 20k deltas", "cold reconnect, 140", lambda d: d["20000"]["ms"] / 8),
    ("20k against 1k deltas", "cold reconnect, 140", lambda d: d["20000"]["ms"] / d["1000"]["ms"] / 2),
    ("memory of 1,000 running", "Valkey memory", lambda d: d["running_kb"] * 1.024 / 18),
    ("commands a token, latency", "per token, 50 runs × 40/s, latency", lambda d: d["commands"] / 1.05),
    ("bytes a token, latency", "per token, 50 runs × 40/s, latency", lambda d: d["bytes"] / 150),
    ("commands a token, economy", "per token, 50 runs × 40/s, economy", lambda d: d["commands"] / 0.5),
    ("bytes a token, economy", "per token, 50 runs × 40/s, economy", lambda d: d["bytes"] / 80),
    ("gateway events a CPU-second", "gateway,", lambda d: 40_000 / d["events_per_cpu_s"]),
    ("abort: engine cancelled p50", "abort, idle:", lambda d: d["cancelled"][0] / 5),
    ("abort: terminal event p50", "abort, idle:", lambda d: d["ended"][0] / 10),
    ("abort beside 500 runs p99", "abort beside", lambda d: d["ended"][1] / 100),
)
"""What of each goal is used up: 1 is the goal itself, less is better."""


IN_THE_WAY: dict[str, str] = {
    "burst": "The engine's loop and the server's share a core here.",
    "1,000 runs": (
        "4 µs of each token are the engine's own timer, 5 its way through channel and encoder, 1 "
        "the server's reply. Lateness is the wait for a core: this worker needs six tenths of one "
        "all the time."
    ),
    "4,000 runs": (
        "Each run costs its worker some 45 KB, which fits; but tokens that come alone cost it 50 µs "
        "each, as nothing shares a write or a wake-up: at 20,000 a second its core is full."
    ),
    "delivery": (
        "Worker, server, gateway and 50 clients share two cores, and each event waits for each of "
        "them once; what raw XADD to XREAD took at the same moment is beside it."
    ),
    "enqueue": (
        "The broker's and the store's round trips, then Celery's own way to a started task; two "
        "cores for all."
    ),
    "starts": (
        "Of a run's CPU in its worker Celery's own path is more than half, as in the no-op task. "
        "The rest is five round trips (owner's set, claim, log, end, indexes), each of which must "
        "be durable before the next, and a wake-up of the pool's thread for each reply. Ending runs "
        "in groups would save two, for a later `run.finished`."
    ),
    "cold reconnect": "A page, a snapshot and a tail: two round trips, and 270 KB through the gateway.",
    "Valkey memory": (
        "One allocation of the next larger size class holds the content; the record takes 1.1 KB."
    ),
    "gateway": (
        "One write to one socket for each event and client: the system call and the reader that it "
        "wakes are most of it. At 20 events/s of a run no two of them are there to be sent "
        "together; with more load they are."
    ),
    "abort": (
        "Two processes must be scheduled before the engine hears of it, two more before the reader does."
    ),
    "growth": (
        "Fixed costs of a process weigh more at a sixteenth of the load, queues and caches at the "
        "whole of it."
    ),
}
"""What stands in the way of a goal, by the beginning of its row's name."""


def main() -> int:
    """Draw what there are results for."""
    mpl.rcParams.update({"svg.hashsalt": "mainstem", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams["axes.spines.right"] = False
    rows: Rows = capacity.newest()
    IMAGES.mkdir(exist_ok=True)
    _save("bench-goals", _goals(rows))
    _save("bench-baselines", _baselines(rows))
    _save("bench-reconnect", _reconnects(rows))
    if any(name.startswith("growth: ") for name in rows):
        _save("bench-growth", _growth(rows))
    _save("bench-scaling", _scaling(capacity.undisturbed()))
    _write("performance.md", "table", "\n".join(_table()))
    _write("performance.md", "missed", "\n".join(_missed()))
    _write("scaling.md", "capacity", "\n".join(capacity.report(capacity.Load(), capacity.undisturbed())))
    return 0


def _write(page: str, mark: str, text: str) -> None:
    """Put a table between a page's marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = (DOCS / page).read_text().partition(begin)
    _, _, after = rest.partition(end)
    (DOCS / page).write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _table() -> list[str]:
    """The rows as they were printed, each kind of bench under its date and machine."""
    lines: list[str] = []
    for document in capacity.documents():
        machine = document["machine"]
        about = f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}"
        lines += [
            f"**{document['kind']}**, {document['at']}: {about}",
            "",
            "| row | figure | baseline | ratio | goal | met | load | core |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in document["rows"]:
            met = {True: "yes", False: "**no**", None: ""}[row["met"]]
            cells = (row["name"], row["figure"], row["baseline"], row["ratio"], row["goal"], met)
            lines.append(f"| {' | '.join(cells)} | {row['load']:.0f} | {row['core']} |")
        lines.append("")
    return lines[:-1]


def _save(name: str, figure: Any) -> None:
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    print(f"docs/images/{name}.svg")


def _missed() -> list[str]:
    """Return a line for each goal that is missed: by how much, and why."""
    return [
        f"* **{row['name']}**: {row['figure']}; the goal is {row['goal']}. "
        + next((why for name, why in IN_THE_WAY.items() if row["name"].startswith(name)), "")
        for document in capacity.documents()
        for row in document["rows"]
        if row["met"] is False
    ] or ["None, in these results."]


def _row(rows: Rows, beginning: str) -> dict[str, Any]:
    return next(data for name, data in rows.items() if name.startswith(beginning))


def _goals(rows: Rows) -> Any:
    used = [(label, share(_row(rows, row))) for label, row, share in reversed(BUDGETS)]
    figure, axes = plt.subplots(figsize=(7.5, 6.5))
    colours = [MET if value <= 1 else MISSED for _, value in used]
    axes.barh([label for label, _ in used], [max(value, 0.01) for _, value in used], color=colours)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("share of the goal that is used up: left of the line it is met")
    return figure


def _baselines(rows: Rows) -> Any:
    burst, delivery = _row(rows, "burst"), _row(rows, "delivery")
    starts, fan_out = _row(rows, "starts"), _row(rows, "gateway,")
    figure, panels = plt.subplots(1, 4, figsize=(10, 2.8))
    _bars(panels[0], "events/s of one run", {"naive": burst["naive"], "raw": burst["raw"]}, burst["ours"])
    panels[0].set_yscale("log")
    _bars(panels[1], "delivery p50, ms", {"raw XREAD": delivery["raw_p50"]}, delivery["p50"])
    _bars(panels[2], "starts/s and worker", {"no-op task": starts["floor"]}, starts["ours"])
    _bars(
        panels[3],
        "SSE events per\ngateway CPU-second",
        {"naive": fan_out["naive"]},
        fan_out["events_per_cpu_s"],
    )
    return figure


def _bars(axes: Any, title: str, others: dict[str, float], ours: float) -> None:
    values = {**others, "Mainstem": ours}
    bars = axes.bar(list(values), list(values.values()), color=[*[OTHER] * len(others), OURS])
    axes.bar_label(bars, [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values.values()])
    axes.set_title(title)
    axes.margins(y=0.15)


def _reconnects(rows: Rows) -> Any:
    figure, (times, sizes) = plt.subplots(1, 2, figsize=(8, 3))
    for name, data in rows.items():
        if name.startswith("cold reconnect"):
            counts = sorted(int(count) for count in data)
            label = name.removeprefix("cold reconnect, ")
            times.plot(counts, [data[str(c)]["ms"] for c in counts], "o-", label=label)
            sizes.plot(counts, [data[str(c)]["kb"] for c in counts], "o-", label=label)
    for axes, what in ((times, "ms to the newest event, median"), (sizes, "KB")):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("deltas of the run")
        axes.set_title(what)
    times.legend()
    return figure


def _growth(rows: Rows) -> Any:
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for name, data in rows.items():
        if name.startswith("growth: "):
            loads = sorted(int(load) for load in data["costs"])
            full = data["costs"][str(loads[-1])]
            shares = [load / loads[-1] for load in loads]
            label = f"{name.removeprefix('growth: ')} (1× = {loads[-1]:,}: {full:.1f} {data['unit']})"
            axes.plot(shares, [data["costs"][str(load)] / full for load in loads], "o-", label=label)
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the full load")
    axes.set_ylabel("cost of a unit, full load = 1")
    axes.legend(fontsize=7)
    return figure


def _scaling(rows: Rows) -> Any:
    cost, load = capacity.costs(rows), capacity.Load()
    sizes = [10 ** (2 + step / 8) for step in range(41)]
    needs = [capacity.need(runs, load, cost) for runs in sizes]
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for kind in ("workers", "gateways", "store_cores", "store_memories", "brokers", "monitors"):
        axes.plot(sizes, [getattr(need, kind) for need in needs], label=kind.replace("_", " "))
    axes.axhline(1, color="black", linewidth=0.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.01)
    axes.set_xlabel("concurrent runs")
    axes.set_ylabel("processes; one is enough below the line")
    axes.legend()
    return figure


if __name__ == "__main__":
    sys.exit(main())
