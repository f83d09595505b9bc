"""Settings: read from the environment, frozen, with secrets that do not show."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mainstem_shared.settings import Settings, WriteProfile


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch):
    import os

    for name in list(os.environ):
        if name.upper().startswith("MAINSTEM_"):
            monkeypatch.delenv(name)


def test_names_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch):
    """Every field is MAINSTEM_<FIELD>."""
    given = {"REDIS_URL": "redis://h:1/0", "LEASE_S": "3", "WRITE_PROFILE": "economy", "MAX_RUN_S": "60"}
    for name, value in given.items():
        monkeypatch.setenv(f"MAINSTEM_{name}", value)
    settings = Settings()
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://h:1/0"
    assert (settings.lease_s, settings.write_profile, settings.max_run_s) == (3, WriteProfile.ECONOMY, 60)


def test_defaults_are_those_of_the_contract():
    """A stack without any variable works as documented."""
    settings = Settings()
    assert (settings.lease_s, settings.sweep_s, settings.drain_s) == (15, 5, 10)
    assert (settings.max_run_s, settings.idle_timeout_s, settings.max_queue_s) == (3600, 300, 3600)
    assert (settings.retention_s, settings.approval_window_s) == (604_800, 86_400)
    assert (settings.redis_url, settings.broker_url, settings.auth) == (None, None, "none")


def test_live_keys_outlive_the_longest_run():
    """Longest wait for a worker, longest run and longest approval window fit, with time for recovery."""
    settings = Settings(max_run_s=10, max_queue_s=20, approval_window_s=30, retention_s=40)
    assert settings.live_ttl_ms == (10 + 20 + 30 + 3600) * 1000
    assert settings.retention_ms == 40_000


def test_settings_are_frozen():
    """A process runs with what it was started with."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_passwords_do_not_show():
    """Neither URLs nor keys appear in a log that prints the settings."""
    settings = Settings(
        redis_url="redis://:hunter2@h/0", broker_url="amqp://u:hunter2@h", openai_api_key="hunter2"
    )  # type: ignore[arg-type]
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEASE_S", "0"), ("WORKERS", "0"), ("PORT", "70000"), ("WRITE_PROFILE", "fast"), ("AUTH", "magic")],
)
def test_nonsense_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    """A process with settings that cannot work does not start."""
    monkeypatch.setenv(f"MAINSTEM_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch):
    """What a compose file passes on as an empty string leaves the default."""
    monkeypatch.setenv("MAINSTEM_PORT", "")
    monkeypatch.setenv("MAINSTEM_OPENAI_API_KEY", "")
    settings = Settings()
    assert (settings.port, settings.openai_api_key) == (8000, None)


def test_another_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch):
    """`environment()` names what was set, secrets in plain, and reads back as the same settings."""
    settings = Settings(
        port=0,
        write_profile=WriteProfile.ECONOMY,
        redis_url="redis://:secret@h/0",
        data_dir="here",
        drain_s=2.5,
    )
    environment = settings.environment()
    assert environment["MAINSTEM_REDIS_URL"] == "redis://:secret@h/0"
    assert "MAINSTEM_BROKER_URL" not in environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings
