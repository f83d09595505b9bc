"""The Helm chart: rendered by Helm itself, held to the schemas of Kubernetes, and to what our processes need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mainstem_shared.settings import Settings
from support.paths import ROOT

CHART = ROOT / "deploy" / "helm" / "mainstem"
HELM = Path(sys.executable).with_name("helm")
EVERYTHING = {
    "gateway": {"autoscaling": {"enabled": True}, "podAnnotations": {"team": "chat"}},
    "workers": {
        "default": {"autoscaling": {"enabled": True}},
        "large": {
            "replicas": 3,
            "settings": {"MAX_RUN_S": 7200},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
        },
    },
    "settings": {"LEASE_S": 20, "DEFAULT_ENGINE": "openai"},
    "migrations": {"enabled": True},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
    "image": {"pullSecrets": [{"name": "registry"}], "tag": "1.2.3"},
    "networkPolicy": {"gatewayFrom": [{"podSelector": {}}], "operatorsFrom": [{"namespaceSelector": {}}]},
    "serviceAccount": {"annotations": {"role": "runs"}},
}
NOTHING = {
    "flower": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "serviceAccount": {"create": False},
    "workers": {"default": {"settings": {"CONCURRENCY": 10}}},
}
VALUES = {"as it is": {}, "everything": EVERYTHING, "little": NOTHING}


def helm(*arguments: str | Path) -> str:
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=VALUES)
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> list[dict[str, Any]]:
    """What the chart makes of some values."""
    values = tmp_path / "values.json"
    values.write_text(json.dumps(VALUES[request.param]))
    rendered = helm("template", "prod", CHART, "--values", values)
    return [document for document in yaml.safe_load_all(rendered) if document]


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents if each["kind"] in kinds}


def pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: each["spec"]["template"] for name, each in of_kind(documents, "Deployment", "Job").items()}


def environment(pod: dict[str, Any]) -> dict[str, str]:
    [container] = pod["spec"]["containers"]
    pairs = [(each["name"], each["value"]) for each in container["env"]]
    assert len(dict(pairs)) == len(pairs), "a variable stands there twice"
    return dict(pairs)


def test_helm_finds_nothing_wrong(tmp_path: Path):
    values = tmp_path / "values.json"
    values.write_text(json.dumps(EVERYTHING))
    helm("lint", "--strict", CHART, "--values", values)


def test_kubernetes_takes_it(documents: list[dict[str, Any]]):
    """Strictly: no member that the schema does not know. (KEDA's own kind has no schema there.)"""
    for document in documents:
        if document["kind"] != "ScaledObject":
            kubernetes_validate.validate(document, "1.34", strict=True)


def test_every_variable_is_a_setting(documents: list[dict[str, Any]]):
    known = {f"MAINSTEM_{name.upper()}" for name in Settings.model_fields}
    for pod in pods(documents).values():
        assert set(environment(pod)) <= known


def test_a_pods_own_settings_win_and_secrets_come_from_the_secret(documents: list[dict[str, Any]]):
    for name, pod in pods(documents).items():
        [container] = pod["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "mainstem"}}], name
    workers = {name: environment(pod) for name, pod in pods(documents).items() if "worker" in name}
    assert {"10", "1000"} & {each["MAINSTEM_CONCURRENCY"] for each in workers.values()}
    assert all(each.get("MAINSTEM_LEASE_S", "20") == "20" for each in workers.values())


def test_a_worker_has_the_time_that_it_needs_to_stop(documents: list[dict[str, Any]]):
    """Scale-in loses nothing: the drain, then 30 s of clean-up for cancelled engines, fit before SIGKILL."""
    for name, pod in pods(documents).items():
        if "worker" in name:
            assert (
                pod["spec"]["terminationGracePeriodSeconds"]
                > float(environment(pod)["MAINSTEM_DRAIN_S"]) + 30
            )


def test_selectors_find_their_pods(documents: list[dict[str, Any]]):
    """Services, budgets, policies and scalers each lead to exactly one deployment."""
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(documents).items()}
    selectors = [each["spec"]["selector"] for each in of_kind(documents, "Service").values()]
    selectors += [
        each["spec"]["selector"]["matchLabels"] for each in of_kind(documents, "PodDisruptionBudget").values()
    ]
    selectors += [
        each["spec"]["podSelector"]["matchLabels"] for each in of_kind(documents, "NetworkPolicy").values()
    ]
    for selector in selectors:
        assert len([name for name, found in labels.items() if selector.items() <= found.items()]) == 1, (
            selector
        )
    for scaler in of_kind(documents, "ScaledObject", "HorizontalPodAutoscaler").values():
        target = scaler["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in of_kind(documents, "Deployment")[target]["spec"]


def test_nothing_runs_as_root_or_writes_its_image(documents: list[dict[str, Any]]):
    for pod in pods(documents).values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        [container] = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_chart_has_the_projects_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{chart["appVersion"]}"' in pyproject
