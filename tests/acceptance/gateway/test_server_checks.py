"""Settings of the servers that break a promise are said when a worker, and when a gateway, starts."""

from __future__ import annotations

import re
from typing import Any

from support.processes.processes import Child, gateway
from support.processes.servers import free_port
from support.waiting import wait_until

SAID = re.compile(r"WARNING.*?(\S+): .*action=promise_broken setting=(\S+) where=(\S+)")


def said(child: Child) -> set[tuple[str, str]]:
    """What a process's log says about its servers, by setting."""
    return {(setting, where) for _, setting, where in SAID.findall(child.log)}


def test_what_the_servers_cannot_guarantee_is_said_at_the_start(fragile: Any):
    """The store forgets at a restart and evicts, the broker evicts: each is a warning, and nothing waits for it."""
    with fragile.store.client() as store, fragile.broker.client() as broker:
        store.config_set("appendonly", "no")
        store.config_set("maxmemory-policy", "allkeys-lru")
        broker.config_set("maxmemory-policy", "volatile-lru")
        try:
            port = free_port()
            web = fragile.stack.enter_context(gateway(fragile.env, fragile.directory, port))
            worker = fragile.worker()
            broken = {("durability", "store"), ("maxmemory-policy", "store"), ("maxmemory-policy", "broker")}
            for process in (worker, web):
                wait_until(
                    lambda p=process: said(p) == broken,
                    description=f"{process.name}'s warnings",
                    timeout_s=30,
                )
        finally:
            broker.config_set("maxmemory-policy", "noeviction")


def test_of_good_servers_nothing_is_said(live: Any):
    """The servers of the tests keep their promises: a warning that always comes would say nothing."""
    worker = live.worker()
    wait_until(lambda: worker.log.count("action=promises_kept") == 2, description="both looks", timeout_s=30)
    assert said(worker) == set()
