"""A provider that thinks, in three protocols on a real socket, and refuses every history that real ones refuse.

What it answers follows from the last user message: words in it ask for reasoning, tools, silence or failure. A call
without its result, a result without its call, and a conversation that ends with the model are answered with 400.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

from mainstem_tasks.testing.histories import fault_of
from support.fakes import provider_protocols
from support.fakes.served_apps import ServedApp

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 7,
    "total_tokens": 107,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
CALLS = {
    "pay": ("transfer", {"amount": 10, "to": "bob"}),
    "weather": ("get_weather", {"city": "Rome"}),
    "block": ("block", {"seconds": 0.4}),
    "wait": ("wait", {}),
    "delegate": ("ask_expert", {"question": "the weather"}),
    "consult": ("ask_writer", {"question": "long:30"}),
    "settle": ("ask_payer", {"question": "pay"}),
    "stall": ("ask_waiter", {"question": "wait"}),
    "question": ("ask_user", {"question": "Which?"}),
    "hand over": ("transfer_to_expert", {}),
    "explode": ("explode", {}),
    "order": ("order", {"thing": "tea"}),
}
"""What a word of the user makes the model call, if it has the tool."""

Chunk = dict[str, Any]


def text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part.get("text", f"<{part.get('type')}>") for part in content)
    return content or ""


class StrictProvider(ServedApp):
    """Use it as a context manager. `requests` has what came; `left` when clients went away in mid-stream."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.left: list[float] = []
        self._numbers = itertools.count(1)

    def clear(self) -> None:
        """Forget what came."""
        self.requests.clear()
        self.faults.clear()
        self.left.clear()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        path, sent = scope["path"], await self._body(receive)
        fault = fault_of(path, sent)
        asked = provider_protocols.as_chat(path, sent)
        self.requests.append(asked)
        if fault:
            self.faults.append(fault)
            await _refuse(400, fault, send)
            return
        said = _said(asked["messages"])
        if "refuse" in said:
            await _refuse(429, "quota exceeded for sk-verysecretkey", send)
        elif asked.get("stream"):
            await self._stream(path, asked, receive, send)
        else:
            await _whole(asked, self._plan(asked), send)

    def _plan(self, asked: dict[str, Any]) -> Iterator[Chunk | str]:
        """Yield the deltas of an answer, then why it ends; or what the connection does in its place."""
        messages = asked["messages"]
        said, results, done = _said(messages), _results(messages), _called(messages)
        tools = {tool["function"]["name"] for tool in asked.get("tools") or ()}
        yield {"role": "assistant", "content": ""}
        if "think" in said and not results:
            yield from ({"reasoning_content": piece} for piece in ("Let ", "me ", "see."))
        wanted = [call for word, call in CALLS.items() if word in said and call[0] in tools - done]
        if "{" in said and asked.get("tools"):  # the output of a structured answer
            final = next((name for name in tools if name.startswith("final_result")), None)
            wanted = (
                [*wanted, (final, json.loads(said[said.index("{") :]))] if final and not wanted else wanted
            )
        if wanted:
            yield {"content": "I will call. "}
            yield from self._calls(wanted, broken="break" in said)
            yield "reset" if "break" in said else "tool_calls"
            return
        if results:
            yield {"content": f"Tools said {' | '.join(results)}. "}
        if "slow" in said:
            yield {"content": "Once upon a time"}
            yield "silent"
            return
        words = next((word for word in said.split() if word.startswith("long:")), "long:0")
        yield from ({"content": f"w{n} "} for n in range(int(words.removeprefix("long:"))))
        yield {"content": f"[{sum(m['role'] == 'user' for m in messages)} user turns]"}
        yield "stop"

    def _calls(self, wanted: list[tuple[str, dict[str, Any]]], *, broken: bool) -> Iterator[Chunk]:
        for index, (name, arguments) in enumerate(wanted):
            function = {"name": name, "arguments": ""}
            call_id = f"call_{next(self._numbers)}"
            yield {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
            text = json.dumps(arguments)
            for at in range(0, len(text) // 2 if broken else len(text), 6):
                yield {"tool_calls": [{"index": index, "function": {"arguments": text[at : at + 6]}}]}

    async def _stream(self, path: str, asked: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        is_chat = path.endswith("/chat/completions")
        for item in self._plan(asked) if is_chat else provider_protocols.events(path, self._plan(asked)):
            if item == "silent":
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.left.append(time.monotonic())
                return
            if item == "reset":
                return  # without the last body chunk uvicorn drops the connection
            finish = item if isinstance(item, str) else None
            await _event(_chunk(asked, {} if finish else item, finish) if is_chat else item, send)
            await asyncio.sleep(0)
        if not is_chat:
            await send({"type": "http.response.body", "body": b""})
            return
        await _event({**_chunk(asked, {}, None), "choices": [], "usage": USAGE}, send)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _said(messages: list[dict[str, Any]]) -> str:
    users = [message for message in messages if message["role"] == "user"]
    return text_of(users[-1]) if users else ""


def _since(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=-1)
    return messages[last + 1 :]


def _results(messages: list[dict[str, Any]]) -> list[str]:
    return [text_of(message) for message in _since(messages) if message["role"] == "tool"]


def _called(messages: list[dict[str, Any]]) -> set[str]:
    return {
        call["function"]["name"] for message in _since(messages) for call in message.get("tool_calls") or ()
    }


def _chunk(asked: dict[str, Any], delta: Any, finish: str | None) -> Chunk:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": asked["model"],
        "choices": [choice],
    }


async def _whole(asked: dict[str, Any], plan: Iterator[Chunk | str], send: Any) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    calls: list[Any] = []
    finish = "stop"
    for item in plan:
        if isinstance(item, str):
            finish = item
            break
        message["content"] += item.get("content") or ""
        for piece in item.get("tool_calls") or ():
            if "id" in piece:
                calls.append({name: value for name, value in piece.items() if name != "index"})
            else:
                calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    if calls:
        message["tool_calls"] = calls
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": USAGE,
    }
    await _json(200, answer, send)


async def _event(item: Any, send: Any) -> None:
    await send(
        {"type": "http.response.body", "body": f"data: {json.dumps(item)}\n\n".encode(), "more_body": True}
    )


async def _refuse(status: int, words: str, send: Any) -> None:
    await _json(status, {"error": {"message": words, "type": "invalid_request_error"}}, send)


async def _json(status: int, body: Any, send: Any) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
