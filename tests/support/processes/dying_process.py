"""A process that dies between two writes: its store and its broker take so many commands, and nothing after.

Death is a BaseException, as no code may treat it: what a real process would not do any more is not done.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.store.nodes import Node

FREE = {"ZRANGE", "ZCARD", "ZCOUNT", "ZREMRANGEBYSCORE"}
"""What a sweep sends to every bucket's indexes: looks, and the end of entries whose retention is long over."""

LOOKS = (("GET", keys.SHARD), ("CLUSTER", "SLOTS"))
"""By which a process learns where keys are, once."""


class Died(BaseException):
    """The process is gone."""


class Life:
    """How many writes are left."""

    def __init__(self, commands: int) -> None:
        self.left = commands

    def spend(self, wanted: int = 1) -> int:
        """Take part of a life; returns how many of the wanted commands still go out."""
        granted = min(self.left, wanted)
        self.left -= granted
        return granted

    def death(self) -> BaseException:
        """Return what is to be raised: nothing that is done on the way out reaches anybody."""
        return Died()

    def act(self) -> None:
        """Take part of it, or die."""
        if not self.spend():
            raise self.death()


class KilledLife(Life):
    """The life of a real process, which the kernel ends."""

    def death(self) -> BaseException:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().death()


class Messages:
    """A broker's front that notes what it is given; to a process with a life, the last thing it may do."""

    def __init__(self, life: Life | None = None, noted: list[str] | None = None) -> None:
        self.published: list[str] = [] if noted is None else noted
        self._life = life

    async def apublish(self, run_id: str, **about: Any) -> str:
        del about
        self._spend()
        self.published.append(run_id)
        return f"task of {run_id}"

    async def acall(self, task: str, *, task_id: str, **about: Any) -> None:
        del about
        self._spend()
        self.published.append(f"{task} {task_id}")

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        del task_id, terminate
        self._spend()

    def _spend(self) -> None:
        if self._life is not None:
            self._life.act()


def store(url: str, life: Life) -> Store:
    """A store for as long as the life lasts. Of commands sent together the first may still go out."""
    connected = Store(url)
    connect = connected.node

    def node(address: str) -> Node:
        known = address in connected.connections
        found = connect(address)
        if not known:
            _make_mortal(found, life)
        return found

    connected.node = node
    return connected


def _make_mortal(node: Node, life: Life) -> None:
    client = node.client
    execute, pipeline = client.execute_command, client.pipeline

    async def execute_command(*args: Any, **options: Any) -> Any:
        life.act()
        return await execute(*args, **options)

    def mortal_pipeline(**options: Any) -> Any:
        pipe = pipeline(**options)
        pipe.execute = _until_death(pipe, pipe.execute, life)
        return pipe

    client.execute_command, client.pipeline = execute_command, mortal_pipeline
    call = node.shared.call

    async def mortal_call(*commands: tuple[Any, ...]) -> Any:
        if all(command[0] in FREE or command in LOOKS for command in commands):
            return await call(*commands)
        granted = life.spend(len(commands))
        if granted == len(commands):
            return await call(*commands)
        if granted:
            await call(*commands[:granted])
        raise life.death()

    guarded = node._send_guarded

    async def mortal_guarded(address: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        granted = life.spend(len(commands))
        replies = await guarded(address, commands[:granted]) if granted else []
        if granted < len(commands):
            raise life.death()
        return replies

    node.shared.call, node._send_guarded = mortal_call, mortal_guarded


def _until_death(pipe: Any, execute: Callable[[], Any], life: Life) -> Callable[[], Any]:
    async def limited() -> Any:
        if all(command[0][0] in FREE for command in pipe.command_stack):
            return await execute()
        wanted = len(pipe.command_stack)
        granted = life.spend(wanted)
        if granted == wanted:
            return await execute()
        pipe.command_stack = pipe.command_stack[: 0 if pipe.is_transaction else granted]
        if pipe.command_stack:
            await execute()
        raise life.death()

    return limited
