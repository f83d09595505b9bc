"""What the pages make of text that a model wrote: bounded work and exact text, in Node, with the pages' own modules."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from mainstem_api.gateway.web import STATIC
from support.models.hostile_texts import HOSTILE, repeated
from support.requiring import require

SIZE = 25_000
SEGMENT_MS = 750
"""The deadline of `parsing.js`: past it, the page gives a segment's tree up."""
NODES, DEPTH = 3_000, 60

Runner = Callable[[str, Any], Any]

TREES = """
import { Segments } from "./scripts/segments.js";
import { tree } from "./scripts/trees.js";

const spent = (since) => { const { user, system } = process.cpuUsage(since); return (user + system) / 1000; };
const depth = (node) => (typeof node === "string" ? 0 : 1 + Math.max(0, ...node.slice(2).map(depth)));
const size = (node) => (typeof node === "string" ? 1 : node.slice(2).reduce((sum, child) => sum + size(child), 1));

export default function (texts) {
  return texts.map((text) => {
    const segments = new Segments();
    const seen = { text: "", slowest: 0, deepest: 0, largest: 0, longest: 0, plain: 0, trees: 0 };
    for (let segment; (segment = segments.next(text)).source !== "";) {
      seen.text += segment.source;
      seen.longest = Math.max(seen.longest, segment.source.length);
      const began = process.cpuUsage(); // other processes may have the cores meanwhile
      const found = tree(segment.prefix + segment.source);
      seen.slowest = Math.max(seen.slowest, spent(began));
      if (!found) seen.plain += 1;
      else seen.trees += 1;
      for (const { node } of found?.blocks ?? []) {
        seen.deepest = Math.max(seen.deepest, depth(node));
        seen.largest = Math.max(seen.largest, size(node));
      }
      if (segment.open) break;
    }
    return seen;
  });
}
"""

CUTS = """
import { Segments } from "./scripts/segments.js";

const cut = (segments, text, found) => {
  for (;;) {
    const segment = segments.next(text);
    if (segment.open) return segment;
    found.push(segment);
  }
};

export default function (cases) {
  return cases.map(({ text, pieces }) => {
    const [streamed, whole] = [[], []];
    const [segments, other] = [new Segments(), new Segments()];
    let so_far = "";
    for (const piece of pieces) cut(segments, so_far += piece, streamed);
    streamed.push(cut(segments, so_far, streamed));
    whole.push(cut(other, text, whole));
    return { same: JSON.stringify(streamed) === JSON.stringify(whole), count: whole.length,
      text: whole.map((segment) => segment.source).join("") === text };
  });
}
"""

ONE = """
import { tree } from "./scripts/trees.js";
export default ({ text, known }) => tree(text, known ?? []);
"""

VALUES = """
import { brief, clip, firstText, isWhole, line, pretty } from "./scripts/values.js";

const nested = (levels) => { let value = 1; for (let i = 0; i < levels; i += 1) value = i % 2 ? [value] : { value }; return value; };
const MADE = {
  deep: () => nested(50_000),
  wide: () => Array.from({ length: 2_000_000 }, (_, i) => i),
  keys: () => Object.fromEntries(Array.from({ length: 200_000 }, (_, i) => [`key${i}`, i])),
  long: () => ({ text: "x".repeat(8_000_000) }),
  text: () => "y".repeat(8_000_000),
  comb: () => Array.from({ length: 5_000 }, () => nested(100)),
};

export default function ({ values, texts }) {
  const bounded = {};
  for (const [name, make] of Object.entries(MADE)) {
    const value = make();
    const began = process.cpuUsage();
    const shown = [pretty(value).length, brief(value).length, isWhole(value)];
    bounded[name] = { shown, ms: process.cpuUsage(began).user / 1000 };
  }
  return {
    pretty: values.map(pretty), json: values.map((value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2))),
    brief: values.map((value) => brief(value)), whole: values.map(isWhole), bounded,
    first: firstText(null, 5, { toString: 1 }, "", "said"), clipped: clip("a🌊".repeat(4), 2), line: line("x".repeat(300)).length,
    odd: texts.map((value) => clip(value)),
  };
}
"""

STREAM = """
import { Parser } from "./scripts/stream.js";
export default function ({ text, sizes }) {
  const found = [];
  const parser = new Parser((id, type, data) => found.push([id, type, data]));
  const bytes = new TextEncoder().encode(text);
  for (let at = 0, i = 0; at < bytes.length; i += 1) parser.feed(bytes.slice(at, at += sizes[i % sizes.length]));
  return found;
}
"""

FOLDS = """
import { Fold } from "./scripts/fold.js";
export default function ({ count }) {
  const fold = new Fold({ status: "running" });
  const began = process.cpuUsage();
  for (let i = 0; i < count; i += 1) fold.apply("step.started", { step_id: `s${i}`, kind: i % 2 ? "step" : "tool_call", name: "n", arguments: {}, at: 0 });
  for (let i = 0; i < count; i += 1) fold.apply("step.completed", { step_id: `s${i}`, state: "completed", result: i, at: 1 });
  return { ms: process.cpuUsage(began).user / 1000, done: fold.steps.filter((step) => step.state === "completed").length };
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A function that has Node call a program's default export, beside the pages' modules."""
    node = shutil.which("node")
    require(node, "node")
    root = tmp_path_factory.mktemp("scripts")
    for folder in ("scripts", "vendor"):
        shutil.copytree(STATIC / folder, root / folder)
    (root / "package.json").write_text('{"type": "module"}')
    main = 'import made from "./program.js"; import { readFileSync, writeFileSync } from "node:fs";'
    main += 'globalThis.window = globalThis.document = { addEventListener() {}, baseURI: "http://x/" };'
    main += 'writeFileSync(1, JSON.stringify(made(JSON.parse(readFileSync(0, "utf8"))) ?? null));'
    (root / "main.js").write_text(main)

    def called(program: str, given: Any) -> Any:
        (root / "program.js").write_text(program)
        ran = subprocess.run(
            [str(node), str(root / "main.js")],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return called


def node_at(found: Any, *path: int) -> Any:
    node = found["blocks"][path[0]]["node"]
    for place in path[1:]:
        node = node[place + 2]
    return node


def test_no_text_costs_more_than_the_bounds(run: Runner) -> None:
    """Every hostile text has a tree within bounds of size and depth, or none; in time, and with all of its characters."""
    texts = {name: repeated(unit, SIZE) for name, unit in HOSTILE.items()}
    for name, seen in zip(texts, run(TREES, list(texts.values())), strict=True):
        assert seen["text"] == texts[name].encode("utf-16", "surrogatepass").decode("utf-16", "replace"), name
        assert seen["slowest"] < SEGMENT_MS, name
        assert (seen["deepest"] < DEPTH, seen["largest"] <= 2 * NODES, seen["longest"] <= 65_536) == (
            True,
            True,
            True,
        ), (name, seen)
        assert seen["plain"] + seen["trees"] > 0, name


def test_repeated_markers_have_no_tree_and_ordinary_text_has_one(run: Runner) -> None:
    """What recurses without end is given up; long lists, tables, code and prose are not."""
    deep = [repeated(unit, 40_000) for unit in ("1. ", ">", "> ", ">- 1. ")]
    ordinary = [
        "".join(f"{n}. an item with **bold** words and `code`\n" for n in range(1, 900)),
        "| a | b | c |\n|---|---|---|\n" + "| one | two | three |\n" * 1500,
        "Words first:\n\n```python\n" + "x = 1\n\ny = [2]\n" * 2500 + "```\n\nand after it\n",
        "Words that go on, *now* and then with [a link](https://example.org).\n\n" * 500,
        "word " * 8000,
    ]
    for seen in run(TREES, deep):
        assert seen["plain"] >= seen["trees"]
    for seen in run(TREES, ordinary):
        assert seen["plain"] == 0


def test_a_streamed_text_is_cut_as_the_whole_one(run: Runner) -> None:
    """However the pieces of a text arrive, its segments are the same, and together they are the text."""
    chance = random.Random(8)
    words = ["word ", "\n", "\n\n", "- item\n", "> said\n", "```\n", "```js\n", "~~~\n", "    code\n", "é🌊", "x" * 900,
             "| a | b |\n|---|---|\n", "| 1 | 2 |\n", "1. one\n", "# Title\n\n", " ", "[a]: http://b\n"]  # fmt: skip
    cases: list[dict[str, Any]] = []
    for _ in range(60):
        text = "".join(chance.choice(words) for _ in range(chance.randrange(1, 3000)))
        pieces, rest = [], text
        while rest:
            size = chance.choice([1, 2, 7, 300, 5000])
            pieces.append(rest[:size])
            rest = rest[size:]
        cases.append({"text": text, "pieces": pieces})
    seen = run(CUTS, cases)
    assert [one["same"] and one["text"] for one in seen] == [True] * len(cases)
    assert max(one["count"] for one in seen) > 3


def test_code_and_tables_go_on_in_the_next_segment(run: Runner) -> None:
    """A block of code or a table that is longer than a segment is still one of its kind in each."""
    program = """
import { Segments } from "./scripts/segments.js";
import { tree } from "./scripts/trees.js";
export default (texts) => texts.map((text) => {
  const [segments, kinds] = [new Segments(), []];
  for (let segment; (segment = segments.next(text)).source !== "";) {
    for (const { node } of tree(segment.prefix + segment.source).blocks) kinds.push([node[0], node[1]?.language ?? null]);
    if (segment.open) break;
  }
  return kinds;
});
"""
    code = "````lua\n" + "```\n\nlocal x = 1\n" * 12_000 + "````\n\nafter\n"
    table = "| a | b |\n|:--|--:|\n" + "| one | two |\n" * 1200 + "\nafter\n"
    shown = run(program, [code, table])
    assert shown[0][:-1] == [["code-block", "lua"]] * len(shown[0][:-1])
    assert len(shown[0]) == 5
    assert shown[1][:-1] == [["table-block", None]] * len(shown[1][:-1])
    assert len(shown[1]) > 2
    assert [kinds[-1][0] for kinds in shown] == ["p", "p"]


def test_trees_hold_what_markdown_says(run: Runner) -> None:
    """Lists, tasks, tables, code, links, images and raw HTML become what the page shows of them."""
    found = run(
        ONE,
        {
            "text": "# T\n\n3. *a*\n4. [x](https://e.org)\n\n<b>raw</b>\n\n| h |\n|--:|\n| `c` |\n\n```py\n&amp;\n```\n"
        },
    )
    assert node_at(found, 0) == ["h3", {"data": {"depth": 1}}, "T"]
    assert found["blocks"][1]["node"][:2] == ["ol", {"start": 3}]
    assert node_at(found, 1, 0, 0, 0) == ["em", None, "a"]
    assert node_at(found, 1, 1, 0, 0)[:2][0] == "a"
    assert node_at(found, 1, 1, 0, 0)[1]["href"] == "https://e.org"
    assert found["blocks"][2]["node"] == ["p", None, "<b>raw</b>"]
    assert node_at(found, 3, 1, 0) == ["td", {"class": "align-right"}, ["code", None, "c"]]
    assert node_at(found, 4) == ["code-block", {"language": "py"}, "&amp;"]
    for text in (
        "[x](javascript:alert(1))",
        "![x](data:text/html,y)",
        f"[x](https://e.org/{'a' * 3000})",
        "[__proto__]: javascript:x\n\n[__proto__]",
    ):
        assert '"a"' not in json.dumps(run(ONE, {"text": text})), text
    known = [["later", {"href": "https://e.org", "title": ""}]]
    assert node_at(run(ONE, {"text": "[later]", "known": known}), 0, 0)[1]["href"] == "https://e.org"
    assert run(ONE, {"text": "[d]: https://e.org\n"})["links"][0][0] == "d"


def test_values_are_shown_as_json_up_to_a_size(run: Runner) -> None:
    """Small values stand as `JSON.stringify` writes them; large, deep and wide ones are cut off in no time."""
    values: list[Any] = [
        {},
        [],
        {"a": [1, {"b": None}], "c": "d\n"},
        "text",
        5,
        True,
        None,
        [[], {}],
        {"": ""},
    ]
    seen = run(VALUES, {"values": values, "texts": [5, None, {"a": 1}, ["x"]]})
    assert seen["pretty"] == seen["json"]
    assert all(seen["whole"])
    assert seen["brief"][2] == 'a: [1,{"b":null}], c: "d\\n"'
    for name, bounded in seen["bounded"].items():
        size, brief, whole = bounded["shown"]
        assert (size <= 20_100, brief <= 80, whole) == (True, True, False), (name, bounded)
        assert bounded["ms"] < 500, name
    assert seen["first"] == "said"
    assert seen["clipped"] == "a… (11 more characters)"
    assert seen["line"] == 200
    assert seen["odd"] == [""] * 4


def test_events_are_the_same_however_their_bytes_are_cut(run: Runner) -> None:
    """Ids, types and data come out whole, also where a cut parts a character or the two ends of a line."""
    text = "".join(
        f'id: 1-{n}\nevent: message.delta\ndata: {{"text": "🌊{n}"}}\n\n: beat\n\n' for n in range(50)
    )
    wanted = [[f"1-{n}", "message.delta", f'{{"text": "🌊{n}"}}'] for n in range(50)]
    for sizes in ([1], [2], [3, 1], [7], [1000], [100_000], [1, 100]):
        assert run(STREAM, {"text": text, "sizes": sizes}) == wanted


def test_a_hundred_thousand_steps_fold_in_linear_time(run: Runner) -> None:
    """A step finds what it belongs to without a search through all others."""
    seen = run(FOLDS, {"count": 100_000})
    assert seen["done"] == 100_000
    assert seen["ms"] < 3_000
