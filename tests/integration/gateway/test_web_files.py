"""The pages as files: where they are served, under which rules, and that others' work in them is unmodified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from mainstem_api.gateway import create_app
from mainstem_api.gateway.web import STATIC
from mainstem_shared.settings import Settings
from support.processes.gateways import check_problem

VENDOR = STATIC / "vendor"
OWN = sorted(path for path in STATIC.rglob("*.*") if VENDOR not in path.parents)


def app() -> FastAPI:
    return create_app(Settings(redis_url="redis://127.0.0.1:1/0", broker_url="redis://127.0.0.1:1/1"))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_pages_run_nothing_but_their_own_files(http: httpx.AsyncClient) -> None:
    """Each answer carries the policy; pages and every file that they name are there, with their types."""
    for page in ("/", "/runs"):
        answer = await http.get(page)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        named = re.findall(r'(?:src|href)="(pages/[^"]+)"', answer.text)
        assert len(named) > 4
        for path in named:
            found = await http.get(f"/{path}")
            assert found.status_code == 200, path
            policy = found.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert found.headers["x-content-type-options"] == "nosniff"
    script = await http.get("/pages/scripts/chat.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"


async def test_an_unchanged_page_is_not_sent_again(http: httpx.AsyncClient) -> None:
    for path in ("/", "/pages/scripts/chat.js"):
        first = await http.get(path)
        again = await http.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b"")


async def test_nothing_else_can_be_asked_for(http: httpx.AsyncClient) -> None:
    """Only files of the pages, whatever a path says; templates only as the pages they are."""
    for path in ("x.js", "../__init__.py", "%2e%2e/__init__.py", "chat.html", "", "scripts", "scripts/"):
        check_problem(await http.get(f"/pages/{path}"), 404, "not_found")


async def test_a_mounted_page_finds_its_files_and_its_gateway() -> None:
    """Under a path of another app, everything is relative to that path."""
    host = FastAPI()
    host.mount("/llm", app())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(host), base_url="http://localhost") as http:
        page = await http.get("/llm/runs")
        assert '<base href="/llm/">' in page.text
        assert (await http.get("/llm/pages/scripts/operator.js")).status_code == 200


def test_what_others_wrote_is_unmodified() -> None:
    """Each vendored file has the digest that was recorded when it was fetched, and each package its licence."""
    recorded = dict(line.split("  ")[::-1] for line in (VENDOR / "SHA256SUMS").read_text().splitlines())
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*/*")
    }
    assert found == recorded
    assert all((package / "LICENSE").exists() for package in VENDOR.iterdir() if package.is_dir())


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_text_becomes_html(path) -> None:
    """No file parses HTML from strings, evaluates text, or has scripts, styles or handlers inline."""
    text = path.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text
    )
    assert not re.search(r"<style|<script>| style=\"| on[a-z]+=\"|javascript:", text)
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
