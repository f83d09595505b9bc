"""A new adopter's first half hour, as the documentation has them type it, outside of the checkout, from the wheel.

`make adopter` does the same with what `pip` fetches from the registry, in place of the tests' own packages.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.clients.browsers import chromium, tabs
from support.paths import ROOT
from support.processes.fresh_environments import FETCHES, Environment, build_wheel, commands, fresh
from support.processes.processes import Child
from support.processes.servers import free_port
from support.processes.stacks import StackProcess
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(1200 if FETCHES else 120)
HAIKU = ["An", "old,", "silent", "pond", "A", "frog", "jumps", "into", "it:", "Splash!", "Silence", "again."]
OWN_QUEUE = """
from mainstem_api import Runs
with Runs() as runs:
    started = runs.start("own", "haiku", {"topic": "pond", "seconds_per_word": 0})
    print([event for event in runs.events(started.run_id)][-1].data["reason"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


@dataclass(frozen=True, slots=True)
class Adopter:
    """An environment, the project in it, and the stack that runs there."""

    environment: Environment
    project: Path
    stack: StackProcess

    def types(self, line: str) -> str:
        """Type a line in a second terminal; return what it prints. It must succeed."""
        done = self.environment.type(line, cwd=self.project)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def child(self, name: str, line: str, **env: str) -> Child:
        """Start a line's program in a terminal of its own."""
        program, *rest = line.split()
        replace = "import os,sys; os.execv(sys.argv[1], sys.argv[1:])"
        where = self.environment.program(program)
        return Child(
            name,
            "-c",
            replace,
            where,
            *rest,
            env={**self.environment.variables, **env},
            directory=self.project,
        )


@pytest.fixture(scope="module")
def adopter(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopter]:
    """Someone who has typed what getting-started.md says under `Start a project of your own`."""
    directory = tmp_path_factory.mktemp("adopter")
    environment = fresh(directory, wheel)
    page = ROOT / "docs" / "getting-started.md"
    installs, begins, starts = commands(page, "## Start a project of your own")
    prepares, up = starts.rsplit(" && ", 1)
    assert up == "mainstem up"
    for line, where in ((installs, directory), (begins, directory), (prepares, directory / "haikus")):
        done = environment.type(line, cwd=where)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    project = directory / "haikus"
    command = (environment.program("mainstem"), "up")
    with StackProcess(project, command=command, **environment.variables) as stack:
        stack.start().wait_ready()
        yield Adopter(environment, project, stack)


def test_the_wheel_has_every_file(wheel: Path):
    """Templates, Lua, pages, prices, type markers: whatever the packages have in the repository is in the wheel."""
    folders = (
        "api/mainstem_api",
        "tasks/mainstem_tasks",
        "workers/mainstem_workers",
        "shared/mainstem_shared",
    )
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {path.split("/", 1)[1] for path in listed.stdout.splitlines()}
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_project_tests_itself(adopter: Adopter):
    """`pytest`, as the project's README says, with no plugin of the tests' environment."""
    lent = "" if FETCHES else " -p no:celery -p no:valkey -p no:randomly -p no:cacheprovider"
    assert "1 passed" in adopter.types(f"pytest -q{lent}")


def test_commands_find_the_stack_of_their_directory(adopter: Adopter):
    """Though its port is not the usual one; a run's id is whole at 80 columns, and nobody is asked anything."""
    given = json.dumps({"topic": "pond", "seconds_per_word": 0})
    events = adopter.types(f"mainstem run --engine haiku --input '{given}' --json").splitlines()
    assert json.loads(events[0])["data"]["run_id"] in adopter.types("COLUMNS=80 mainstem runs")


async def test_the_page_survives_a_reload(adopter: Adopter):
    """The README's `uvicorn`, in a browser: a run is read on after a reload, to its last word."""
    port = free_port()
    # The README's second block; the first one has been typed.
    [serve] = commands(adopter.project / "README.md", "Then, in another terminal", **{"8080": str(port)})
    with adopter.child("web", serve) as web:
        wait_until(lambda: "Uvicorn running" in web.log, description="the page to be served", timeout_s=40)
        url = f"http://127.0.0.1:{port}"
        async with chromium() as browser, tabs(browser, url) as opened:
            page = await opened.open()
            await page.get_by_role("button", name="Write").click()
            words = "document.getElementById('text').textContent"
            await page.wait_for_function(f"{words}.includes('silent pond')")
            await page.reload()
            await page.wait_for_function(f"{words}.includes('Silence again.')")
            text = await page.locator("#text").text_content()
            assert (text or "").split() == HAIKU
            opened.expect_broken_requests()


def test_the_projects_own_celery_app_has_the_engines(adopter: Adopter):
    """It finds the stack's broker without being told, and is the wheel's; in the long form it executes a run."""
    assert "`celery -A haikus.celery_app worker`" in (adopter.project / "README.md").read_text()
    asked = "import mainstem_workers as m; from haikus.celery_app import app; print(m.__file__, *app.tasks)"
    place, *tasks = adopter.types(f"python -c '{asked}; print(app.conf.broker_url)'").split()
    assert Path(place).is_relative_to(adopter.environment.directory)
    assert "mainstem.generate" in tasks
    assert tasks[-1].startswith("redis://")
    if FETCHES:
        executes_a_run(adopter)


def executes_a_run(adopter: Adopter) -> None:
    """On a queue that it alone consumes, so that no worker of the stack can have executed it."""
    line = "celery -A haikus.celery_app worker -l INFO -n own@test -c 1 -Q own"
    with adopter.child("own", line, MAINSTEM_QUEUE="own") as worker:
        wait_until(lambda: "own@test ready" in worker.log, description="the worker", timeout_s=40)
        (adopter.project / "start.py").write_text(OWN_QUEUE)
        assert adopter.types("MAINSTEM_QUEUE=own python start.py").strip() == "completed"
