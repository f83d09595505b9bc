"""`mainstem init`, and what its README says next: the project's own tests, the stack, its page in a browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.clients.browsers import chromium, tabs
from support.processes.processes import Child
from support.processes.servers import free_port
from support.processes.stacks import PROGRAM, StackProcess
from support.waiting import wait_until


def init(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, "init", directory], capture_output=True, text=True, timeout=60, check=False
    )


def own_tests(project: Path) -> str:
    """Run the project's tests without the plugins of other packages here; return what they print."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:celery",
        "-p",
        "no:valkey",
        "-p",
        "no:randomly",
    ]
    return subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=60, check=False
    ).stdout


def test_nothing_is_overwritten_and_names_must_fit(tmp_path: Path):
    made = init(tmp_path / "my-haikus")
    assert made.returncode == 0, made.stderr
    assert "mainstem up" in made.stdout
    engines = tmp_path / "my-haikus" / "my_haikus" / "engines.py"
    engines.write_text("# mine")
    again = init(tmp_path / "my-haikus")
    assert (again.returncode, engines.read_text()) == (2, "# mine")
    assert "nothing was written" in again.stderr
    refused = init(tmp_path / "1st")
    assert (refused.returncode, list(tmp_path.iterdir())) == (2, [tmp_path / "my-haikus"])


async def test_the_project_runs(tmp_path: Path):
    """As its README says, but for `pip install`: the folder is on the path instead."""
    project = tmp_path / "haikus"
    assert init(project).returncode == 0
    assert "1 passed" in own_tests(project)
    found = {"MAINSTEM_ENGINES": "haikus.engines", "PYTHONPATH": str(project)}
    port = free_port()
    serve = ("-m", "uvicorn", "haikus.web:app", "--port", str(port))
    with StackProcess(project, **found) as stack:
        stack.start().wait_ready()
        with Child("web", *serve, env=found, directory=project) as web:
            wait_until(
                lambda: "Uvicorn running" in web.log, description="the page to be served", timeout_s=30
            )
            url = f"http://127.0.0.1:{port}"
            async with chromium() as browser, tabs(browser, url) as opened:
                page = await opened.open()
                await page.get_by_role("button", name="Write").click()
                words = "document.getElementById('text').textContent"
                await page.wait_for_function(f"{words}.includes('silent pond')")
                await page.reload()
                await page.wait_for_function(f"{words}.includes('Silence again.')")
                text = await page.locator("#text").text_content()
                assert (text or "").split() == (
                    [
                        "An",
                        "old,",
                        "silent",
                        "pond",
                        "A",
                        "frog",
                        "jumps",
                        "into",
                        "it:",
                        "Splash!",
                        "Silence",
                        "again.",
                    ]
                )
                opened.expect_broken_requests()
