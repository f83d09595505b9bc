"""The documentation builds without complaint and without the network, and says what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mainstem_shared import errors
from mainstem_shared.metrics.catalogue import METRICS
from mainstem_shared.model.events import Type
from mainstem_shared.settings import Settings
from support.paths import ROOT

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "srcset", "video": "src", "audio": "src", "object": "data"}  # fmt: skip
RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}
FOREIGN = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)


class Fetches(HTMLParser):
    """Addresses that a browser asks for when it shows a page; links that people follow are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.styles: list[str] = []
        self.tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tag = tag
        given = {name: value or "" for name, value in attrs}
        if tag in FETCHED and FETCHED[tag] in given:
            self.found.append(given[FETCHED[tag]])
        if tag == "link" and RELATIONS & set(given.get("rel", "").split()):
            self.found.append(given.get("href", ""))
        self.styles.append(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.tag == "style":
            self.styles.append(data)


def build(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site), *options],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    built = build(made)
    assert (built.returncode, built.stderr.strip()) == (0, "")
    return made


def test_no_page_asks_another_host_for_anything(site: Path):
    """Scripts, styles, fonts and images are the site's own: it can be read offline, and nobody hears of it."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        seen = Fetches()
        seen.feed(page.read_text())
        foreign = [address for address in seen.found if FOREIGN.match(address)]
        assert foreign == [], page.relative_to(site)
        for style in seen.styles:
            assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style), page.relative_to(site)
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.search(r"(?:url\(|@import\s)\s*['\"]?(?:https?:)?//", sheet.read_text()), sheet


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("settings", [f"MAINSTEM_{name.upper()}" for name in Settings.model_fields]),
        ("events", list(Type)),
        ("errors", list(errors.__all__)),
        ("metrics", [row.exposed_name for row in METRICS.values()]),
        ("python", ["AsyncRuns", "RunContext", "request_approval", "install", "TaskPool", "create_app"]),
    ],
)
def test_the_reference_has_everything(site: Path, page: str, words: list[str]):
    """Each setting, event type, error, metric and public name is on its page."""
    text = (site / "reference" / f"{page}.html").read_text()
    assert [word for word in words if word not in text] == []


def test_every_setting_says_what_it_is_for(site: Path):
    """No row of the table of settings is without words."""
    rows = re.findall(r"<tr>(.*?)</tr>", (site / "reference" / "settings.html").read_text(), re.DOTALL)
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows if "<td>" in row]
    assert len(cells) == len(Settings.model_fields)
    assert [row[0] for row in cells if not row[3].strip()] == []
