"""docs/adding-a-protocol.md is executed: its adapter serves a run whole, again, and to nobody else."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

import httpx
import pytest

from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS, bearer
from support.models.logs import RunLog
from support.paths import ROOT
from support.processes.gateways import GatewayThread

PAGE = (ROOT / "docs" / "adding-a-protocol.md").read_text()


def adapter() -> ModuleType:
    """Return the page's adapter as a module."""
    found = re.search(r"<!-- adapter -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    assert found[1].count("\n") < 100, "a page"
    module = ModuleType("lines")
    exec(compile(found[1], "docs/adding-a-protocol.md", "exec"), vars(module))
    return module


@pytest.fixture
def gateway(store_url: str, broker_url: str) -> Any:
    """A gateway that serves the page's protocol, too."""
    running = GatewayThread(store_url, broker_url, **SETTINGS)
    running.app.include_router(adapter().router)
    with running:
        yield running


def lines(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n") if line]


async def test_the_pages_protocol(gateway: GatewayThread, store: Store) -> None:
    """A run is started once for a message, and followed from its start, in this protocol's words."""
    await store.client.hset(keys.ENGINES, "demo", "{}")
    ann = bearer("ann")
    async with gateway.client() as http:
        asked = {"json": {"text": "hello"}, "headers": {**ann, "message-id": "m1"}}
        run_ids: list[str] = []
        for _ in range(2):
            async with http.stream("POST", "/v1/lines/demo/t", **asked) as answer:
                assert answer.status_code == 200
                run_ids.append(answer.headers["x-run"])
        assert run_ids[0] == run_ids[1]
        await store.client.set(keys.lease("w1"), "worker", ex=120)
        log = RunLog(store, run_ids[0])
        await log.learn()
        await log.claim()
        await log.say(3)
        await log.finish()
        said = lines(await http.get(f"/v1/lines/{run_ids[0]}", headers=ann))
        assert "".join(each.get("more", "") for each in said) == "w0 w1 w2"
        assert said[-1] == {"end": "succeeded"}
        assert (await http.get(f"/v1/lines/{run_ids[0]}", headers=bearer("bob"))).status_code == 404
        assert (await http.get(f"/v1/lines/{run_ids[0]}")).status_code == 401
