"""The alert rules, their runbook and the dashboard speak of metrics that exist, and do what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mainstem_shared.metrics.catalogue import METRICS
from support.paths import ROOT
from support.requiring import require

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "mainstem.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "mainstem.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
EXPRESSIONS = [rule["expr"] for rule in RULES]
SCALED_BY = [
    trigger["metadata"]["query"]
    for trigger in yaml.safe_load((ROOT / "deploy" / "kubernetes" / "keda-scaledobject.yaml").read_text())[
        "spec"
    ]["triggers"]
] + [
    metric["external"]["metric"]["name"]
    for metric in yaml.safe_load((ROOT / "deploy" / "kubernetes" / "hpa.yaml").read_text())["spec"]["metrics"]
]
TARGETS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SAMPLES = {
    f"{row.exposed_name}{suffix}"
    for row in METRICS.values()
    for suffix in (("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",))
}


def promtool(*arguments: str | Path) -> None:
    tool = shutil.which("promtool")
    require(tool, "promtool, of Debian's prometheus package, is not here")
    assert tool
    done = subprocess.run(
        [tool, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("expression", sorted({*EXPRESSIONS, *TARGETS, *SCALED_BY}))
def test_expressions_name_metrics_and_labels_that_exist(expression: str):
    """Each metric in an alert or a panel is exported, and each label that it is matched or grouped by is its own."""
    named = re.findall(r"\bmainstem_\w+", expression)
    assert [name for name in named if name not in SAMPLES] == []
    rows = [row for row in METRICS.values() if any(name.startswith(row.name) for name in named)]
    known = {"le", "instance", "job", "alertname", "alertstate", *(x for row in rows for x in row.labels)}
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|=)", expression)
    assert {label.strip() for group in groups for label in group.split(",")} | set(matched) <= known


def test_rules_are_valid_and_fire_when_they_should():
    """promtool accepts the rules; each alert fires on figures that call for it, and is quiet on others close by."""
    promtool("check", "rules", PROMETHEUS / "mainstem.rules.yml")
    promtool("test", "rules", PROMETHEUS / "mainstem.rules.test.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    names = [
        test["name"] for test in yaml.safe_load((PROMETHEUS / "mainstem.rules.test.yml").read_text())["tests"]
    ]
    assert sorted(names) == sorted(
        f"{rule['alert']} {how}" for rule in RULES for how in ("fires", "is quiet")
    )


def test_every_alert_is_in_the_runbook():
    """Each has a section, with what it means, where to look and what to do; its annotation leads there."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == {rule["alert"] for rule in RULES}
    for rule in RULES:
        for part in ("Meaning", "Look here", "Do this"):
            assert f"* **{part}:** " in sections[rule["alert"]], rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_dashboard_can_be_imported(tmp_path: Path):
    """Panels have ids of their own, fit side by side, ask the chosen data source, and every query parses."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert variables == {"datasource"}
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(TARGETS)
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)
