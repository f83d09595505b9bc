"""The shipped Lua verbs run on an in-process database: the same source, executed by Lua 5.1 (lupa)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from lupa.lua51 import LuaRuntime

from mainstem_shared import transitions
from mainstem_shared.store.client import Script, Store
from model.redis_in_process import CommandError, Database, Reply

T = TypeVar("T")

SHIPPED: Mapping[str, str] = {
    value.name: value.source for value in vars(transitions).values() if isinstance(value, Script)
}
"""Each verb's source, the common prelude included."""


STEPS: Final = 1_000_000
"""Instructions after which a script does not end any more."""
_BOUNDED: Final = """
function(script, keys, args, steps)
  debug.sethook(function() error('the script does not end') end, '', steps)
  local answer = script(keys, args)
  debug.sethook()
  return answer
end
"""


class Interpreter:
    """Runs verbs on whatever database is `database` at the time.

    `seen` is what scripts that are watched (`mutants.watched`) tell at each branch: a place, and its outcome.
    """

    def __init__(
        self, sources: Mapping[str, str] = SHIPPED, *, seen: Callable[[str, bool], None] | None = None
    ) -> None:
        self.database = Database()
        self._lua: Any = LuaRuntime(encoding="latin-1", unpack_returned_tuples=False)
        self._bounded = self._lua.eval(_BOUNDED)
        globals_ = self._lua.globals()
        globals_.redis = self._lua.table_from({"call": self._call})
        globals_.cjson = self._lua.table_from({"decode": self._decode})
        if seen is not None:
            globals_.at_branch = self._lua.eval(
                "function(note) return function(p, v) note(p, not not v) return v end end"
            )(seen)
        self._verbs = {name: self._compile(source) for name, source in sources.items()}

    def _compile(self, source: str) -> Any:
        body = re.sub(r"^#!lua[^\n]*\n", "", source).encode().decode("latin-1")
        return self._lua.eval(f"function(KEYS, ARGV)\n{body}\nend")

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Reply:
        """Execute a verb; returns what the server would send for it, text as bytes."""
        arguments = [_argument(arg) for arg in args]
        named = self._lua.table_from(list(keys))
        reply = self._bounded(self._verbs[name], named, self._lua.table_from(arguments), STEPS)
        return self._reply(reply)

    def _call(self, command: str, *args: Any) -> Any:
        if any(arg is None or isinstance(arg, bool) for arg in args):
            raise CommandError("ERR Lua redis lib command arguments must be strings or integers")
        return self._to_lua(self.database.call(command, *args))

    def _to_lua(self, reply: Reply) -> Any:
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(item) for item in reply])
        return False if reply is None else reply

    def _decode(self, text: str) -> Any:
        value = json.loads(text.encode("latin-1"))
        return self._lua.table_from(value, recursive=True) if isinstance(value, (dict, list)) else value

    def _reply(self, value: Any) -> Reply:
        if value is None or value is False:
            return None
        if isinstance(value, str):
            return value.encode("latin-1")
        if isinstance(value, (int, float)):
            return int(value)
        items: list[Reply] = []
        while (item := value[len(items) + 1]) is not None:  # a nil ends a Redis reply
            items.append(self._reply(item))
        return items


def _argument(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class InProcessStore(Store):
    """A store whose verbs run in this process; they never wait, so `drive` runs their callers to the end."""

    def __init__(self, interpreter: Interpreter) -> None:
        super().__init__("")
        self.interpreter = interpreter

    async def verb(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        patience_s: float | None = None,
    ) -> list[Any]:
        del patience_s
        return self.interpreter.run(script.name, keys, args)

    async def verbs(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        return [self.interpreter.run(script.name, named, args) for named, args in calls]

    async def commands(
        self, *commands: tuple[Any, ...], patience_s: float | None = None, large: bool = False
    ) -> list[Any]:
        del patience_s, large
        return [encoded(self.interpreter.database.call(name, *args)) for name, *args in commands]


def encoded(reply: Reply) -> Reply:
    """Return a command's reply as a client gets it."""
    if isinstance(reply, list):
        return [encoded(item) for item in cast("list[Any]", reply)]
    return reply.encode("latin-1") if isinstance(reply, str) else reply


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("the coroutine waits for something that is not modelled")
