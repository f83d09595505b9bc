"""`mainstem shards`: what it shows, plans and refuses, and what it does about a mover that was killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mainstem_api.cli import build_app
from mainstem_shared import errors, transitions
from mainstem_shared.store import keys, shard_moves
from mainstem_shared.store.shard_moves import Mover
from support.models import verb_calls as v
from support.models.hostile_writing import stored
from support.processes.servers import ValkeyProcess

RUNS = 12
KILLED = """
import os, signal, sys
from mainstem_shared.store import shard_moves
class Killed(shard_moves.Mover):
    def _copy(self, moving, some):
        super()._copy(moving, some)
        os.kill(os.getpid(), signal.SIGKILL)
with Killed(url=sys.argv[1]) as mover:
    mover.run(shard_moves.spread(mover.map, [1]))
"""
"""A mover that the kernel ends once it has copied some keys."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[list[ValkeyProcess]]:
    """Two servers that know nothing of each other."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ValkeyProcess(tmp_path_factory.mktemp(f"shard{n}"))) for n in range(2)]


@pytest.fixture
def url(servers: list[ValkeyProcess]) -> str:
    """The empty servers' list."""
    for server in servers:
        with server.client() as client:
            client.flushall()
    return ",".join(server.url() for server in servers)


def shards(url: str, *arguments: str) -> Result:
    """Run the command in a terminal of 80 columns."""
    env = {"MAINSTEM_REDIS_URL": url, "COLUMNS": "80"}
    return CliRunner().invoke(build_app(["shards"]), ["shards", *arguments], env=env)


def shown(url: str) -> dict:
    result = shards(url, "show", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def _runs(url: str) -> list[str]:
    async with stored(url) as store:
        return [(await v.running(store)).run_id for _ in range(RUNS)]


async def _all_there(url: str, run_ids: list[str]) -> bool:
    async with stored(url) as store:
        records = await transitions.read_many(store, run_ids)
        return not [record for record in records if isinstance(record, transitions.Gone)]


def killed_mover(url: str, servers: list[ValkeyProcess]) -> list[str]:
    """Write runs, have a mover killed with -9 on its way, and let its lock end; returns the runs."""
    run_ids = asyncio.run(_runs(url))
    dead = subprocess.run([sys.executable, "-c", KILLED, url], env={**os.environ}, timeout=60, check=False)
    assert dead.returncode == -9
    busy = shards(url, "back")
    assert (busy.exit_code, "wait 15 s" in busy.output) == (2, True), busy.output
    assert shown(url)["under_way"]["mover"].split()[1].isdigit()
    for server in servers:
        with server.client() as client:
            client.delete(keys.SHARD_MOVER)  # what fifteen seconds do
    return run_ids


@pytest.mark.parametrize(("command", "at_first"), [("move", None), ("back", 512)])
def test_what_a_killed_mover_held_goes_on_or_back(
    url: str, servers: list[ValkeyProcess], command: str, at_first: int | None
) -> None:
    """`show` says which buckets nobody can use; `move` brings them to their target, `back` to their source."""
    run_ids = killed_mover(url, servers)
    told = shown(url)
    assert told["moving"] is True
    assert (told["under_way"]["from"], told["under_way"]["to"], told["under_way"]["mover"]) == (1, 2, None)
    held = sum(last - first + 1 for first, last in told["under_way"]["held"])
    text = shards(url, "show").stdout
    assert f"{held} buckets are on the way from 1 to 2: nobody can use them yet." in text
    assert "No mover is at work." in text
    assert all(word in text for word in ("mainstem shards move", "mainstem shards back"))
    arguments = ("--buckets", "0-511", "--to", "2") if command == "move" else ()
    done = shards(url, command, *arguments)
    assert done.exit_code == 0, done.output
    after = shown(url)
    assert (after["moving"], after["under_way"]) == (False, None)
    assert after["shards"][0]["buckets"] == (at_first or 0)
    assert asyncio.run(_all_there(url, run_ids))
    copies = [set(client_keys(server)) for server in servers]
    assert not copies[0] & copies[1]


def client_keys(server: ValkeyProcess) -> list[str]:
    with server.client() as client:
        return [str(key) for key in client.keys("ms:{*")]  # type: ignore[union-attr] - not a coroutine


def test_nothing_to_give_back_is_said(url: str) -> None:
    """And changes nothing."""
    asyncio.run(_runs(url))
    before = shown(url)
    assert "Nothing was on its way." in shards(url, "back").stdout
    assert json.loads(shards(url, "back", "--json").stdout) == {"back": 0, "ranges": []}
    assert shown(url)["shards"] == before["shards"]


def test_each_output_fits_80_columns_and_has_a_form_for_programs(
    url: str, servers: list[ValkeyProcess]
) -> None:
    """What is shown, planned and done; --json gives one object a line, with the same figures."""
    asyncio.run(_runs(url))
    for arguments in (["show"], ["move", "--off", "2", "--dry-run"], ["move", "--off", "2"], ["back"]):
        text = shards(url, *arguments)
        assert text.exit_code == 0, text.output
        assert max(map(len, text.stdout.splitlines())) <= 80, text.stdout
    told = shown(url)
    assert [shard["buckets"] for shard in told["shards"]] == [1024, 0]
    assert told["shards"][0]["keys"] > RUNS
    plan = json.loads(shards(url, "move", "--dry-run", "--json").stdout)
    assert (plan["from"], plan["to"], plan["buckets"]) == (1, 2, 512)
    lines = [json.loads(line) for line in shards(url, "move", "--json").stdout.splitlines()]
    assert lines[-1]["done"] is True
    assert (lines[-1]["moved"], lines[-1]["of"]) == (512, 512)
    assert lines[-1]["keys"] <= plan["keys"]
    with servers[0].client() as client:
        client.set(keys.SHARD_MOVER, "somebody 12 ab", px=60_000)
    assert max(map(len, shards(url, "show").stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["move", "--to", "2"], "go together"),
        (["move", "--buckets", "0-9"], "go together"),
        (["move", "--buckets", "x", "--to", "2"], "0-99,200"),
        (["move", "--buckets", "1000-1024", "--to", "2"], "0 to 1023"),
        (["move", "--to", "3", "--buckets", "1"], "no shard 3"),
        (["move", "--off", "1", "--off", "2"], "one shard must stay"),
    ],
)
def test_what_makes_no_sense_is_refused(url: str, arguments: list[str], wanted: str) -> None:
    """Exit code 2, and one sentence that says what is wanted."""
    asyncio.run(_runs(url))
    result = shards(url, *arguments)
    assert result.exit_code == 2
    assert wanted in " ".join(result.output.replace("│", " ").split())


def test_other_stores_and_lost_shards_are_named(url: str, servers: list[ValkeyProcess]) -> None:
    """A single server has no buckets to move: 2; a shard that does not answer: 4."""
    asyncio.run(_runs(url))
    alone = shards(servers[0].url(), "show")
    assert (alone.exit_code, "lists no static shards" in alone.output) == (2, True), alone.output
    servers[1].sigkill()
    try:
        for arguments in (["show"], ["move"], ["back"]):
            lost = shards(url, *arguments)
            assert (lost.exit_code, "does not answer" in lost.output) == (4, True), lost.output
    finally:
        servers[1].start()


def test_a_mover_that_was_thought_dead_cannot_undo_what_was_given_back(url: str) -> None:
    """It stood still while its buckets were given back: its next change of the map is refused."""
    asyncio.run(_runs(url))

    class Slow(Mover):
        def _copy(self, moving: object, some: list[bytes]) -> None:
            for shard in self.shards.values():
                shard.client.delete(keys.SHARD_MOVER)
            with Mover(url=url) as other:
                assert other.give_back()
            super()._copy(moving, some)  # type: ignore[arg-type]

    with Slow(url=url) as mover, pytest.raises(errors.ShardsBusy):
        mover.run(shard_moves.spread(mover.map, [1]))
    assert [shard["buckets"] for shard in shown(url)["shards"]] == [512, 512]
