"""The chat page folds events as the gateway does: what was streamed is what a reload shows."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from typing import Any

from mainstem_api.gateway.web import STATIC
from mainstem_shared.model.contents import Content
from support.requiring import require

CASES, EVENTS = 150, 40
PROGRAM = """
import { readFileSync } from "node:fs";
const [path] = process.argv.slice(-1);
const { Fold } = await import(`data:text/javascript,${encodeURIComponent(readFileSync(path, "utf8"))}`);
const cases = JSON.parse(readFileSync(0, "utf8"));
const folded = cases.map((events) => {
  const fold = new Fold({ status: "queued" });
  for (const [type, data] of events) fold.apply(type, structuredClone(data));
  const { content, steps, usage, title, action, inputs, text } = fold;
  return { content, steps, usage, title, action, inputs, text };
});
console.log(JSON.stringify(folded));
"""


class Script:
    """Random events as engines and verbs write them, and what they fold to here."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.fold = Content()
        self.events: list[tuple[str, Any]] = []
        self.calls = 0

    def write(self) -> None:
        said = self.random.choice(
            [
                self.text,
                self.text,
                self.text,
                self.call,
                self.step,
                self.complete,
                self.pause,
                self.note,
                self.state,
            ]
        )
        for kind, data in said():
            self.events.append((kind, json.loads(json.dumps(data))))
            self.fold.apply(kind, json.loads(json.dumps(data)))

    def text(self) -> list[tuple[str, Any]]:
        kind = self.random.choice(["text", "text", "reasoning"])
        parts = self.fold.dump()["content"]
        goes_on = parts and parts[-1]["type"] == kind and not self.fold.interrupted
        delta = "message.delta" if kind == "text" else "reasoning.delta"
        piece = self.random.choice([" word", "é", "🌊", "\n\n", "<b>"])
        return [(delta, {"part": len(parts) - bool(goes_on), "text": piece})]

    def call(self) -> list[tuple[str, Any]]:
        self.calls += 1
        started = {"step_id": f"c{self.calls}", "kind": "tool_call", "name": "tool", "at": 1_700_000_000_000}
        if self.random.random() < 0.5:
            return [("step.started", {**started, "arguments": {"n": self.calls}})]
        piece = {"step_id": f"c{self.calls}", "arguments": '{"n":'}
        end = [("step.started", {**started, "arguments": {"n": 1}})] if self.random.random() < 0.7 else []
        return [("step.started", {**started, "arguments": ""}), ("step.delta", piece), *end]

    def step(self) -> list[tuple[str, Any]]:
        return [
            (
                "step.started",
                {"step_id": "s", "kind": "step", "name": "n", "at": self.random.randrange(3 * 10**12)},
            )
        ]

    def complete(self) -> list[tuple[str, Any]]:
        known = [step["step_id"] for step in self.fold.steps]
        chosen = {"step_id": self.random.choice([*known, "unknown"]), "at": 1_700_000_000_999}
        result = self.random.choice([{"result": {"x": [1, None]}}, {"result": None}, {}])
        return [
            ("step.completed", {**chosen, "state": self.random.choice(["completed", "failed"]), **result})
        ]

    def pause(self) -> list[tuple[str, Any]]:
        action = {"action_id": "a", "kind": "question", "questions": []}
        decided = {"action_id": "a", "decisions": [{"id": "q", "type": "answer", "text": "x"}]}
        both = [("approval.required", {"action": action}), ("approval.resolved", decided)]
        return both[: self.random.randint(1, 2)]

    def note(self) -> list[tuple[str, Any]]:
        said = {"input_id": f"in{self.random.random()}", "text": "hey", "sent_at": "2026-01-01T00:00:00.000Z"}
        return [
            self.random.choice(
                [
                    (
                        "usage",
                        {"input_tokens": 1, "output_tokens": self.random.randrange(99), "total_tokens": 1},
                    ),
                    ("title", {"title": "T"}),
                    ("input.accepted", said),
                    ("run.started", {"segment": 1, "at": 1}),
                    ("unheard.of", {"x": 1}),
                ]
            )
        ]

    def state(self) -> list[tuple[str, Any]]:
        kind = self.random.choice(["snapshot", "resync", "run.restarted"])
        return [(kind, {**self.fold.dump(), "text": self.fold.text, "at": 1})]


def test_the_page_folds_as_the_gateway_does() -> None:
    """Whatever engines say, in whatever order: content, steps, usage, title, action and inputs are the same."""
    node = shutil.which("node")
    require(node, "node")
    scripts = [Script(seed) for seed in range(CASES)]
    for script in scripts:
        for _ in range(EVENTS):
            script.write()
    ran = subprocess.run(
        [str(node), "--input-type=module", "--eval", PROGRAM, str(STATIC / "scripts" / "fold.js")],
        input=json.dumps([script.events for script in scripts]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for script, shown in zip(scripts, json.loads(ran.stdout), strict=True):
        wanted = {"inputs": [], **script.fold.dump(), "text": script.fold.text}
        assert shown == {name: wanted[name] for name in shown}
