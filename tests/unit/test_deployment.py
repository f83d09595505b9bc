"""Compose file, Procfile, image and systemd units: valid, and starting the same commands as `make run`."""

from __future__ import annotations

import configparser
import json
import re
import socket
import tomllib

import pytest
import yaml
from jsonschema import Draft202012Validator

from mainstem_api.cli.processes import _flower_address
from mainstem_api.gateway.auth import authenticators
from mainstem_api.stack._stack import Stack, program
from mainstem_api.stack._tether import Tether
from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_workers.pool_hosts import CANCEL_GRACE_S
from support.paths import ROOT

SCHEMA = json.loads((ROOT / "tests" / "vendored" / "compose-spec" / "compose-spec.json").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())


def seconds(text: str) -> float:
    """Read a duration such as `45s`, or a variable's default in `${NAME:-45s}`."""
    found = re.fullmatch(r"(?:\$\{\w+:-)?(\d+)s?\}?", str(text))
    assert found is not None, text
    return float(found[1])


def test_the_compose_file_is_valid():
    """It fits the Compose Specification's own schema, which refuses what is not in it."""
    validator = Draft202012Validator(SCHEMA)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {"services": {**SERVICES, "worker": {**SERVICES["worker"], "stop_grace_perod": "45s"}}}
    assert list(validator.iter_errors(broken))


def test_compose_keeps_runs_and_publishes_on_loopback_only():
    """The store never evicts, workers may drain and scale, what needs no network door has none to the outside."""
    assert "--appendonly yes" in SERVICES["valkey"]["command"]
    assert "--maxmemory-policy noeviction" in SERVICES["valkey"]["command"]
    worker = SERVICES["worker"]
    drain = seconds(worker["environment"]["MAINSTEM_DRAIN_S"])
    assert seconds(worker["stop_grace_period"]) > drain + CANCEL_GRACE_S
    assert not {"container_name", "ports"} & set(worker)
    assert "?" in SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"]
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service or name == "worker"


def test_compose_does_not_serve_strangers():
    """Without further settings the gateway wants tokens, and without keys for them it does not start."""
    given = SERVICES["gateway"]["environment"]
    assert given["MAINSTEM_AUTH"] == "${MAINSTEM_AUTH:-jwt}"
    with pytest.raises(errors.Misconfigured):
        authenticators.authenticator(Settings(auth="jwt", host="0.0.0.0"))  # as in the image


def test_flower_without_a_password_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch):
    """Whoever reaches Flower can end any run."""
    for name in ("FLOWER_BASIC_AUTH", "FLOWER_AUTH"):
        monkeypatch.delenv(name, raising=False)
    everywhere = Settings(host="0.0.0.0", auth="jwt")
    assert _flower_address(everywhere, []) == "127.0.0.1"
    assert _flower_address(everywhere, ["--basic-auth=a:b"]) == "0.0.0.0"
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "a:b")
    assert _flower_address(everywhere, []) == "0.0.0.0"


def test_compose_settings_exist():
    """Every MAINSTEM_ variable that a service gets is one that Mainstem reads."""
    known = {f"MAINSTEM_{name.upper()}" for name in Settings.model_fields}
    for name, service in SERVICES.items():
        given = {key for key in service.get("environment", {}) if key.startswith("MAINSTEM_")}
        assert given <= known, name


def test_procfile_and_make_run_start_the_same():
    """`make run` starts what the Procfile names, each with the same command."""
    assert "exec $(BIN)/mainstem up" in (ROOT / "Makefile").read_text()
    with socket.socket() as listening, Tether() as tether:
        commands = Stack(Settings(workers=1))._commands(listening, tether)
    started = {f"mainstem {command.arguments[len(program())]}" for command in commands}
    # The embedded server is no child of the supervisor: it outlives it, and has a session of its own.
    assert {*started, "mainstem valkey"} == set(PROCFILE.values())


def test_the_image_runs_the_same_commands_without_root():
    """Compose's commands are the Procfile's, as arguments of the image's entry point, and not root's."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["mainstem"]' in dockerfile
    assert re.search(r"^USER (?!root)", dockerfile, re.MULTILINE)
    ours = {f"mainstem {' '.join(s['command'])}" for name, s in SERVICES.items() if name != "valkey"}
    assert ours == set(PROCFILE.values()) - {"mainstem valkey"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_units(path):
    """Each unit starts one of the Procfile's commands, as nobody's root, and may take its time to stop."""
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    service = unit["Service"]
    program, command, *_ = service["ExecStart"].split()
    assert program.endswith("/bin/mainstem")
    assert f"mainstem {command}" in PROCFILE.values()
    assert service["User"] != "root"
    assert service["Restart"] == "always"
    if command == "worker":
        assert seconds(service["TimeoutStopSec"]) > Settings().drain_s + CANCEL_GRACE_S
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_every_extra_is_in_the_table():
    """docs/deploy.md says of each extra what it is for, and of none that there is not."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    table = page.split("<!-- extras -->")[1].split("<!-- /extras -->")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`([\w-]+)`", row.partition(" | ")[0])}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert told == set(declared)
