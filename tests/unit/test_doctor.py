"""What `mainstem doctor` says of the engines that ask providers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from mainstem_api.cli import doctor
from mainstem_shared.settings import Settings

KEY = SecretStr("sk-secret")


@pytest.mark.parametrize(
    ("fields", "mark", "words"),
    [
        ({}, doctor.Mark.NOTE, "not set up: MAINSTEM_ANTHROPIC_API_KEY and MAINSTEM_ANTHROPIC_MODEL do it"),
        ({"anthropic_model": "m"}, doctor.Mark.WARNING, "no key"),
        ({"anthropic_api_key": KEY}, doctor.Mark.NOTE, "MAINSTEM_ANTHROPIC_MODEL is the default"),
        ({"anthropic_api_key": KEY, "anthropic_model": "m"}, doctor.Mark.GOOD, "m at its own address"),
    ],
)
def test_each_engine_of_a_provider_says_what_it_lacks(fields: dict[str, Any], mark: doctor.Mark, words: str):
    """And never the key."""
    found = {finding.name: finding for finding in doctor._providers(Settings(**fields))}
    assert found["openai"].mark is doctor.Mark.NOTE
    assert found["anthropic"].mark is mark
    assert words in found["anthropic"].words
    assert "secret" not in str(found)


def test_a_key_under_the_sdks_own_name_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """It has no say: the doctor tells which name has."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    found = {finding.name: finding for finding in doctor._providers(Settings())}
    assert "only MAINSTEM_ANTHROPIC_API_KEY counts" in found["anthropic"].words


@pytest.mark.parametrize("engine", ["openai", "anthropic"])
def test_the_page_offers_an_engine_of_a_provider_once_it_has_a_model(engine: str):
    """Others are offered always."""
    assert not Settings().has_model(engine)
    assert Settings(**{f"{engine}_model": "m"}).has_model(engine)
    assert Settings().has_model("demo")
