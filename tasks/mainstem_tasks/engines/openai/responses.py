"""The protocol of Responses: how a request is encoded, and what of an answer goes back as it came.

Answers are kept as the items they came in: reasoning with its encrypted content, messages, calls. Nothing is
stored at the provider. How a stream's events are read is in `items`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from typing_extensions import override

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.openai.items import ITEMS, ItemReader
from mainstem_tasks.engines.turns.endpoints import Chat, Endpoint
from mainstem_tasks.engines.turns.inputs import Conversing
from mainstem_tasks.engines.turns.transport import ProviderClient

ENCRYPTED: Final = "reasoning.encrypted_content"
_RENAMED: Final[Mapping[str, str]] = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
}
_without_reasoning: Final[WeakKeyDictionary[Any, set[str]]] = WeakKeyDictionary()
"""Models that have no encrypted content and refuse to be asked for it, by client."""


class ResponsesEndpoint(Endpoint):
    """An endpoint of Responses."""

    kind: ClassVar[str] = "openai.responses"
    own: ClassVar[str] = ITEMS
    noun: ClassVar[str] = "response"

    def __init__(self, client: ProviderClient, settings: Settings) -> None:
        super().__init__(client)
        self._model = settings.openai_model

    @override
    def model_of(self, wanted: Conversing) -> str:
        return wanted.model_of(self._model, setting="MAINSTEM_OPENAI_MODEL")

    @override
    def body(self, wanted: Conversing, messages: Sequence[Chat], tools: Sequence[Mapping[str, Any]]) -> Chat:
        given = {_RENAMED.get(name, name): value for name, value in wanted.given().items()}
        model = self.model_of(wanted)
        body: Chat = {"store": False, **_shaped(given), "model": model, "input": list(input_items(messages))}
        if model not in _without_reasoning.get(self.provider_client.client, ()):
            body["include"] = sorted({ENCRYPTED, *body.get("include", ())})
        if tools:
            body["tools"] = [_tool(tool) for tool in tools]
        return body

    @override
    def bound_of(self, body: Mapping[str, Any]) -> int | None:
        return body.get("max_output_tokens")

    @override
    def bind(self, body: Chat, tokens: int) -> None:
        body["max_output_tokens"] = tokens

    @override
    def pieces(self) -> ItemReader:
        return ItemReader()

    @override
    def stream(self, body: Mapping[str, Any], *, silence_s: float) -> AsyncGenerator[bytes]:
        return self.provider_client.stream(
            lambda timeout: self.provider_client.client.responses.with_streaming_response.create(
                stream=True, extra_body={**body, "stream": True}, timeout=timeout
            ),
            silence_s=silence_s,
        )

    @override
    def words_of_own(self) -> Sequence[str]:
        return ("encrypted", "reasoning", "item")

    @override
    def adapts(self, error: errors.ProviderError, model: str) -> bool:
        known = _without_reasoning.setdefault(self.provider_client.client, set())
        if model in known or "encrypted" not in str(error).casefold():
            return False
        known.add(model)
        return True


def _shaped(given: Mapping[str, Any]) -> Chat:
    """Return a caller's parameters where Responses has them; what it has no place for stays as it is."""
    shaped = dict(given)
    if (effort := shaped.pop("reasoning_effort", None)) is not None:
        shaped["reasoning"] = {"summary": "auto", **shaped.get("reasoning", {}), "effort": effort}
    about_text = dict(shaped.get("text", {}))
    if (verbosity := shaped.pop("verbosity", None)) is not None:
        about_text["verbosity"] = verbosity
    if (wanted := shaped.pop("response_format", None)) is not None:
        about_text["format"] = _flat(wanted, "json_schema")
    if about_text:
        shaped["text"] = about_text
    if isinstance(choice := shaped.get("tool_choice"), Mapping):
        shaped["tool_choice"] = _flat(choice, "function")
    return shaped


def _tool(tool: Mapping[str, Any]) -> Chat:
    flat = _flat(tool, "function")
    return {"strict": False, **flat} if flat.get("type") == "function" else flat


def _flat(value: Mapping[str, Any], name: str) -> Chat:
    """Return chat completions' nested description without its nesting."""
    inner = value.get(name)
    if not isinstance(inner, Mapping):
        return dict(value)
    return {**{key: member for key, member in value.items() if key != name}, **inner}


# -- the conversation


def input_items(messages: Iterable[Chat]) -> Iterator[Chat]:
    """Yield chat completions' messages as input items; answers that came as items as these."""
    for message in messages:
        match message.get("role"):
            case "assistant" if isinstance(items := message.get(ITEMS), list):
                yield from _as_they_came(items, message.get("tool_calls") or ())
            case "assistant":
                yield from _answer(message)
            case "tool":
                output = _parts(message.get("content"))
                yield {
                    "type": "function_call_output",
                    "call_id": message.get("tool_call_id"),
                    "output": output,
                }
            case role:
                yield {"role": role, "content": _parts(message.get("content"))}


def _as_they_came(items: Sequence[Chat], calls: Sequence[Chat]) -> Iterator[Chat]:
    """Yield an answer's items; its calls are those of the message, which humans may have edited."""
    left = iter(calls)
    for item in items:
        if item.get("type") != "function_call":
            yield item
        elif (call := next(left, None)) is not None:
            yield {**item, "call_id": call["id"], "arguments": call["function"]["arguments"]}


def _answer(message: Chat) -> Iterator[Chat]:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or ()
    if said := [part for part in map(_said_part, parts) if part is not None]:
        yield {"role": "assistant", "content": said}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _said_part(part: Chat) -> Chat | None:
    if isinstance(text := part.get("text"), str) and text:
        return {"type": "output_text", "text": text}
    if isinstance(text := part.get("refusal"), str) and text:
        return {"type": "refusal", "refusal": text}
    return None


def _parts(content: Any) -> Any:
    """Return what was said, as text or as parts of input."""
    if not isinstance(content, list):
        return content or ""
    return [_part(part) for part in content]


def _part(part: Any) -> Any:
    match part:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "image_url": url, "detail": more.get("detail", "auto")}
        case {"type": "image_url", "image_url": str(url)}:
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case {"type": "file", "file": dict(file)}:
            return _file(file)
        case _:
            return part


def _file(file: Chat) -> Chat:
    data = file.get("file_data")
    if isinstance(data, str) and data.startswith(("http://", "https://")):
        return {"type": "input_file", "file_url": data}
    return {"type": "input_file", **file}
