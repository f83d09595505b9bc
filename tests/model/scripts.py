"""The shipped Lua verbs run on an in-process database: the same source, executed by Lua 5.1 (lupa)."""

from __future__ import annotations

import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from lupa.lua51 import LuaRuntime

from mainstem_shared import transitions
from mainstem_shared.store.client import Script, Store
from model.redis_in_process import Database, Reply

T = TypeVar("T")

SHIPPED: Mapping[str, str] = {
    value.name: value.source for value in vars(transitions).values() if isinstance(value, Script)
}
"""Each verb's source, the common prelude included."""


class Interpreter:
    """Runs verbs on whatever database is `database` at the time."""

    def __init__(self, sources: Mapping[str, str] = SHIPPED) -> None:
        self.database = Database()
        self._lua: Any = LuaRuntime(encoding="latin-1", unpack_returned_tuples=False)
        globals_ = self._lua.globals()
        globals_.redis = self._lua.table_from({"call": self._call})
        globals_.cjson = self._lua.table_from({"decode": self._decode})
        self._verbs = {name: self._compile(source) for name, source in sources.items()}

    def _compile(self, source: str) -> Any:
        body = re.sub(r"^#!lua[^\n]*\n", "", source).encode().decode("latin-1")
        return self._lua.eval(f"function(KEYS, ARGV)\n{body}\nend")

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Reply:
        """Execute a verb; returns what the server would send for it, text as bytes."""
        arguments = [_argument(arg) for arg in args]
        reply = self._verbs[name](self._lua.table_from(list(keys)), self._lua.table_from(arguments))
        return self._reply(reply)

    def _call(self, command: str, *args: Any) -> Any:
        return self._to_lua(self.database.call(command, *args))

    def _to_lua(self, reply: Reply) -> Any:
        if isinstance(reply, list):
            return self._lua.table_from([self._to_lua(item) for item in reply])
        return False if reply is None else reply

    def _decode(self, text: str) -> Any:
        return self._lua.table_from(json.loads(text.encode("latin-1")), recursive=True)

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


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("the coroutine waits for something that is not modelled")
