"""The agents that the README shows run as they are typed there, against an OpenAI-compatible server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import agents
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from support.fakes.strict_provider import StrictProvider
from support.paths import ROOT
from support.processes.in_process_worker import working

BLOCKS = [
    block
    for block in re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if "serve_" in block
]
NAMES = [re.findall(r"serve_\w+\(\"(\w+)\"", block)[0] for block in BLOCKS]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictProvider]:
    """A provider where the frameworks' own settings lead; it speaks chat completions."""
    with StrictProvider() as strict:
        monkeypatch.setenv("OPENAI_BASE_URL", strict.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
        agents.set_default_openai_api("chat_completions")
        try:
            yield strict
        finally:
            agents.set_default_openai_api("responses")
        assert strict.faults == []


def test_the_readme_shows_three_frameworks_first():
    """They come before whatever else one may do with a running stack."""
    assert NAMES == ["support", "helper", "desk"]
    text = (ROOT / "README.md").read_text()
    assert text.index("$ make run") < text.index(BLOCKS[0]) < text.index("## ")
    assert all(len(block.strip().splitlines()) <= 4 for block in BLOCKS)


@pytest.mark.parametrize("name", NAMES)
async def test_an_agent_of_the_readme_runs_as_typed(
    name: str, provider: StrictProvider, runs: AsyncRuns, settings: Settings, closing_clients: None
):
    """Two turns: the second one knows the first."""
    exec(compile(BLOCKS[NAMES.index(name)], f"README.md {name}", "exec"), {"__name__": "readme"})
    async with working(settings) as worker:
        for turn in (1, 2):
            started = await runs.start("desk", name, {"text": "long:3"})
            await segments.execute(worker, started.run_id, task_id="t")
            run = await runs.get(started.run_id)
            assert (run.status, run.text) == ("succeeded", f"w0 w1 w2 [{turn} user turns]"), run.error
            assert run.usage is not None
            assert run.usage.output_tokens > 0
