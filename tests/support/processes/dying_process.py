"""A process that dies between two writes: its store and its broker take so many commands, and nothing after.

Death is a BaseException, as no code may treat it: what a real process would not do any more is not done.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from mainstem_shared.store.client import Store

FREE = {"ZRANGE", "ZCARD", "ZCOUNT", "ZREMRANGEBYSCORE"}
"""What a sweep sends to every bucket's indexes: looks, and the end of entries whose retention is long over."""


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
    client = connected.client
    execute, pipeline = client.execute_command, client.pipeline

    async def execute_command(*args: Any, **options: Any) -> Any:
        life.act()
        return await execute(*args, **options)

    def mortal_pipeline(**options: Any) -> Any:
        pipe = pipeline(**options)
        pipe.execute = _until_death(pipe, pipe.execute, life)
        return pipe

    client.execute_command, client.pipeline = execute_command, mortal_pipeline
    call = connected.shared.call

    async def mortal_call(*commands: tuple[Any, ...]) -> Any:
        if all(command[0] in FREE for command in commands):
            return await call(*commands)
        granted = life.spend(len(commands))
        if granted == len(commands):
            return await call(*commands)
        if granted:
            await call(*commands[:granted])
        raise life.death()

    connected.shared.call = mortal_call
    return connected


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
