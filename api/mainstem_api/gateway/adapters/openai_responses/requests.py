"""Parses what clients of the Responses API send: a conversation, or decisions. Pure.

Input items of the conversation become messages of chat completions. What an engine cannot be told is
refused, never ignored; parameters that only tune a model go to engines that know them.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from mainstem_api.gateway.adapters.engine_input import Given, Options
from mainstem_api.gateway.adapters.openai_responses import ids, parameters
from mainstem_api.gateway.adapters.openai_responses.ids import Asked
from mainstem_api.gateway.adapters.openai_responses.parameters import RESPONSES
from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.operations import uploads

ECHO_LIMIT: Final = 8 * 1024
"""Bytes of a request that its response objects repeat: a run's metadata is limited."""
_ECHOED: Final = frozenset(
    {
        "background", "frequency_penalty", "instructions", "max_output_tokens", "metadata", "model",
        "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key", "reasoning",
        "safety_identifier", "service_tier", "store", "temperature", "text", "tool_choice", "tools", "top_p",
        "user",
    }
)  # fmt: skip
_PLAIN: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_completion_tokens",
    "frequency_penalty": "frequency_penalty",
    "parallel_tool_calls": "parallel_tool_calls",
    "presence_penalty": "presence_penalty",
}
_DECISIONS: Final = ("mcp_approval_response", "function_call_output")


class CreateRequest(BaseModel):
    """A request for a response. What each member means here, if anything, stands in `parameters`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    input: str | list[dict[str, Any]] = ""
    model: Annotated[str, Field(max_length=256)] | None = None
    background: bool | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    instructions: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: Annotated[int, Field(gt=0)] | None = None
    parallel_tool_calls: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    include: list[str] | None = None
    truncation: str | None = None
    top_logprobs: int | None = None
    max_tool_calls: int | None = None
    context_management: Any = None
    stream_options: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    mainstem: Options = Field(default_factory=Options)
    """What this API has no word for: the engine and its input."""

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input

    def check(self) -> None:
        """Refuse what cannot be done as asked.

        Raises:
            InvalidRequest: `param` names the member.
        """
        parameters.check(self.model_dump(exclude_none=True), RESPONSES)
        if self.store is False and self.background:
            raise errors.InvalidRequest("background: needs store: a response is polled.", path="background")
        if self.conversation is not None and self.previous_response_id is not None:
            message = "previous_response_id: a conversation says already what was before."
            raise errors.InvalidRequest(message, path="previous_response_id")
        for at, tool in enumerate(self.tools or ()):
            if tool.get("type") != "function" or not isinstance(tool.get("name"), str):
                message = (
                    f"tools[{at}]: only functions of the caller; tools that run here belong to the engine."
                )
                raise errors.InvalidRequest(message, path=f"tools[{at}]")

    def thread(self) -> str | None:
        """Return the thread that the request names as its conversation."""
        named = self.conversation
        named = named.get("id") if isinstance(named, dict) else named
        if named is None:
            return None
        if not isinstance(named, str) or not named:
            raise errors.InvalidRequest("conversation: an id, or an object with one.", path="conversation")
        return named

    def echo(self) -> dict[str, Any]:
        """Return what response objects repeat of this request; not what is too long."""
        given = self.model_dump(include=set(_ECHOED), exclude_none=True)
        for name in ("instructions", "tools", "text"):
            if len(jsontext.dumps(given)) > ECHO_LIMIT:
                given.pop(name, None)
        return given

    def parameters(self) -> dict[str, Given]:
        """Return what only an engine can honour, under its names in chat completions."""
        found = {ours: Given(name, getattr(self, name)) for name, ours in _PLAIN.items()}
        text, reasoning = self.text or {}, self.reasoning or {}
        tools = [_chat_tool(tool) for tool in self.tools] if self.tools else None
        found["tools"] = Given("tools", tools)
        found["tool_choice"] = Given("tool_choice", _chat_choice(self.tool_choice))
        found["reasoning_effort"] = Given("reasoning.effort", reasoning.get("effort"))
        found["verbosity"] = Given("text.verbosity", text.get("verbosity"))
        found["response_format"] = Given("text.format", _chat_format(text.get("format")))
        return {name: given for name, given in found.items() if given.value is not None}

    def hints(self) -> dict[str, Any]:
        """Return what a provider may make use of, and what changes nothing where none does."""
        named = {name: getattr(self, name) for name in parameters.HINTS}
        return {name: value for name, value in named.items() if value not in (None, "auto", "default")}


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    members = ("name", "description", "parameters", "strict")
    function = {member: tool[member] for member in members if tool.get(member) is not None}
    return {"type": "function", "function": function}


def _chat_choice(choice: str | Mapping[str, Any] | None) -> Any:
    match choice:
        case None | "auto":
            return None  # what goes without saying
        case str():
            return choice
        case {"type": "function", "name": str() as name}:
            return {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "tools": [*tools]}:
            allowed = [{"type": "function", "function": {"name": tool.get("name")}} for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {**_mode(choice), "tools": allowed}}
        case _:
            message = "tool_choice: auto, none, required, a function, or allowed_tools."
            raise errors.InvalidRequest(message, path="tool_choice")


def _mode(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {"mode": choice.get("mode", "auto")}


def _chat_format(wanted: Any) -> Any:
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    if wanted["type"] == "json_schema":
        described = {name: value for name, value in wanted.items() if name != "type"}  # pyright: ignore[reportUnknownVariableType]
        return {"type": "json_schema", "json_schema": described}
    return wanted  # pyright: ignore[reportUnknownVariableType] - JSON


# -- decisions


class Verdicts(BaseModel):
    """What a request decides about a paused run."""

    run_id: str
    action_id: str
    decisions: list[dict[str, Any]]
    answers: list[dict[str, Any]]


def verdicts(items: Sequence[Mapping[str, Any]]) -> Verdicts | None:
    """Return what the end of the input decides about something that we asked; None if it does not.

    Earlier items are history: clients without a `previous_response_id` send all they have.

    Raises:
        InvalidDecision: it is about several actions at once.
    """
    decided: list[tuple[Asked, Mapping[str, Any]]] = []
    for item in reversed(items):
        asked = ids.asked(_asked_id(item))
        if asked is None:
            break
        decided.insert(0, (asked, item))
    if not decided:
        return None
    if len({(asked.run_id, asked.action_id) for asked, _ in decided}) > 1:
        raise errors.InvalidDecision("The input decides about several actions at once.")
    approvals = [_decision(asked, item) for asked, item in decided if asked.is_approval]
    answers = [_answer(asked, item) for asked, item in decided if not asked.is_approval]
    first, _ = decided[0]
    return Verdicts(run_id=first.run_id, action_id=first.action_id, decisions=approvals, answers=answers)


def _asked_id(item: Mapping[str, Any]) -> str:
    if item.get("type") not in _DECISIONS:
        return ""
    return str(item.get("approval_request_id" if _is_approval(item) else "call_id"))


def _is_approval(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "mcp_approval_response"


def _decision(asked: Asked, item: Mapping[str, Any]) -> dict[str, Any]:
    if not _is_approval(item):  # the client called the tool itself, or answers in its place
        return {"call_id": asked.id, "type": "respond", "text": _text_of(item.get("output"))}
    approve, arguments = item.get("approve"), item.get("arguments")
    decision: dict[str, Any] = {"call_id": asked.id, "reason": item.get("reason")}
    if not isinstance(approve, bool):
        raise errors.InvalidDecision(f"approve: true or false, not {str(approve)[:40]!r}.")
    if not approve:
        return {**decision, "type": "reject"}
    if arguments is None:
        return {**decision, "type": "approve"}
    return {**decision, "type": "edit", "arguments": _parsed(arguments)}


def _parsed(arguments: Any) -> Any:
    """Return edited arguments as what they say: this API has arguments as text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return jsontext.checked(arguments)
    except ValueError:
        return arguments  # which is no object: refused as such


def _answer(asked: Asked, item: Mapping[str, Any]) -> dict[str, Any]:
    return {"question_id": asked.id, "text": _text_of(item.get("output"))}


# -- the conversation


def conversation(request: CreateRequest, before: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return the request's instructions, what was said before, and its input as messages of chat completions.

    Raises:
        InvalidRequest: an item is not one that can be told to an engine; says which.
    """
    instructions = request.instructions
    messages = [{"role": "system", "content": instructions}] if instructions else []
    messages += [dict(message) for message in before]
    for at, item in enumerate(request.items):
        for message in _chat(at, item):
            _append(messages, message)
    return messages


def _append(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Append a message; calls that follow each other are one message's."""
    last = messages[-1] if messages else None
    if message.get("tool_calls") and last is not None and last["role"] == "assistant":
        last.setdefault("tool_calls", []).extend(message["tool_calls"])
    else:
        messages.append(message)


def _chat(at: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kind = item.get("type") or "message"
    match kind:
        case "message":
            yield _message(at, item)
        case "function_call" | "mcp_call":
            call_id = str(item.get("call_id") or item.get("id"))
            yield _call(call_id, item)
            if kind == "mcp_call":
                content = _text_of(item.get("error") or item.get("output"))
                yield {"role": "tool", "tool_call_id": call_id, "content": content}
        case "function_call_output":
            content = _output_of(at, item.get("output"))
            yield {"role": "tool", "tool_call_id": str(item.get("call_id")), "content": content}
        case "reasoning" | "mcp_approval_request" | "mcp_approval_response":
            return  # of earlier turns; no engine takes them back
        case _:
            raise errors.InvalidRequest(
                f"input[{at}]: items of type {str(kind)[:40]!r} are not supported.", path=f"input[{at}]"
            )


def _call(call_id: str, item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": str(item.get("name")), "arguments": _text_of(item.get("arguments"))}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def _message(at: int, item: Mapping[str, Any]) -> dict[str, Any]:
    role = _ROLES.get(str(item.get("role")))
    content = item.get("content")
    if role is None or not isinstance(content, str | list):
        message = f"input[{at}]: a message has a role (user, assistant, system, developer) and content."
        raise errors.InvalidRequest(message, path=f"input[{at}]")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_part(at, part) for part in content]  # pyright: ignore[reportUnknownVariableType] - JSON
    if all(part["type"] == "text" for part in parts):
        return {"role": role, "content": "".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _part(at: int, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None  # pyright: ignore[reportUnknownVariableType]
    match kind:
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": str(part.get("text", ""))}
        case "refusal":
            return {"type": "text", "text": str(part.get("refusal", ""))}
        case "input_image" if isinstance(part.get("image_url"), str):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
        case "input_image" | "input_file" if isinstance(part.get("file_id"), str):
            return _upload(at, part)
        case "input_file" if isinstance(url := part.get("file_data") or part.get("file_url"), str):
            return {"type": "file", "file": {"filename": part.get("filename") or "file", "file_data": url}}
        case "input_audio" if isinstance(part.get("input_audio"), dict):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case _:
            message = f"input[{at}].content: parts of type {str(kind)[:40]!r} are not supported."  # pyright: ignore[reportUnknownArgumentType]
            raise errors.InvalidRequest(message, path=f"input[{at}].content")


def _upload(at: int, part: dict[str, Any]) -> dict[str, Any]:
    """Return a part that names an upload; the start of the run gives it the file.

    Raises:
        InvalidRequest: no upload can have this id.
    """
    file_id: str = part["file_id"]
    if not uploads.is_id(file_id):
        message = f"input[{at}].content: no file with id {file_id[:80]!r} was uploaded here."
        raise errors.InvalidRequest(message, path=f"input[{at}].content")
    if part["type"] == "input_image":
        return {"type": "image_url", "image_url": {"url": f"/v1/files/{file_id}/content"}}
    name = {"filename": part["filename"]} if part.get("filename") else {}
    return {"type": "file", "file": {"file_id": file_id, **name}}


def _output_of(at: int, output: Any) -> str:
    """Return what a function returned, as text.

    Raises:
        InvalidRequest: it has images or files: no engine takes those from a function.
    """
    if isinstance(output, list):
        for part in output:
            if not isinstance(part, dict) or "text" not in part:
                message = f"input[{at}].output: only text; show images and files in a message."
                raise errors.InvalidRequest(message, path=f"input[{at}].output")
    return _text_of(output)


def _text_of(value: Any) -> str:
    """Return an output as text; lists of text parts are joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and "text" in p for p in value):  # pyright: ignore[reportUnknownVariableType]
        return "".join(str(part["text"]) for part in value)  # pyright: ignore[reportUnknownVariableType]
    return "" if value is None else jsontext.dumps(value).decode("utf-8", "surrogatepass")


def engine_of(
    named: str | None, model: str | None, known: Mapping[str, Any], default: str
) -> tuple[str, str | None]:
    """Return the engine, and the model it is to ask: `model` names an engine, or a model of the default one.

    Raises:
        UnknownEngine: there is no engine to take.
    """
    if named is not None:
        return named, None if model == named else model
    if model is not None and (model in known or not default):
        return model, None
    if not default:
        raise errors.UnknownEngine(engine="", known=", ".join(known) or "none")
    return default, model
