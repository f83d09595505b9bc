"""Each member of an OpenAI request is done what its table says: honoured, passed on, a hint, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from mainstem_api.gateway.adapters import engine_input
from mainstem_api.gateway.adapters.openai_chat.requests import ChatCompletionRequest
from mainstem_api.gateway.adapters.openai_responses import parameters
from mainstem_api.gateway.adapters.openai_responses.parameters import Parameter, Treatment
from mainstem_api.gateway.adapters.openai_responses.requests import CreateRequest
from mainstem_shared import errors

FUNCTION: Final = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SAMPLES: Final[Mapping[str, Any]] = {
    "temperature": 0.5, "top_p": 0.5, "frequency_penalty": 0.5, "presence_penalty": 0.5,
    "max_output_tokens": 5, "max_tokens": 5, "max_completion_tokens": 5, "parallel_tool_calls": False,
    "tools": [FUNCTION], "tool_choice": "required", "reasoning": {"effort": "low"}, "seed": 1, "stop": ["x"],
    "text": {"format": {"type": "json_object"}}, "response_format": {"type": "json_object"},
    "reasoning_effort": "low", "verbosity": "low", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
    "safety_identifier": "s", "service_tier": "flex", "user": "u", "truncation": "auto", "top_logprobs": 3,
    "max_tool_calls": 1, "context_management": [{"type": "compaction"}], "prompt": {"id": "p"}, "n": 2,
    "logprobs": True, "logit_bias": {"1": 1}, "modalities": ["audio"], "audio": {"voice": "v"},
    "prediction": {"type": "content"}, "web_search_options": {}, "functions": [{"name": "f"}],
    "function_call": "auto",
}  # fmt: skip
"""A value of each member that asks for something."""
APIS: Final[Mapping[str, tuple[type[Any], dict[str, Any], Mapping[str, Parameter]]]] = {
    "responses": (CreateRequest, {"input": "x"}, parameters.RESPONSES),
    "chat": (
        ChatCompletionRequest,
        {"messages": [{"role": "user", "content": "x"}]},
        parameters.CHAT_COMPLETIONS,
    ),
}


def members(treatment: Treatment) -> list[Any]:
    return [
        pytest.param(api, name, id=f"{api}-{name}")
        for api, (_, _, table) in APIS.items()
        for name, known in table.items()
        if known.treatment is treatment
    ]


def request(api: str, **members: Any) -> Any:
    model, least, _ = APIS[api]
    return model(**least, **members)


@pytest.mark.parametrize(("api", "name"), members(Treatment.REFUSED))
def test_what_nobody_honours_is_refused_by_name(api: str, name: str) -> None:
    """But for values that ask for nothing."""
    with pytest.raises(errors.InvalidRequest) as refused:
        request(api, **{name: SAMPLES[name]}).check()
    assert refused.value.path == name
    for fine in APIS[api][2][name].fine:
        request(api, **{name: fine}).check()


@pytest.mark.parametrize(("api", "name"), members(Treatment.PASSED))
def test_what_is_the_engines_is_passed_or_refused(api: str, name: str) -> None:
    """An engine that knows the member gets it; one that does not never runs without it."""
    asked = request(api, **{name: SAMPLES[name]})
    asked.check()
    given = asked.parameters()
    assert given
    knows = {"properties": {ours: {} for ours in given}}
    assert engine_input.fitting(knows, given, {}).keys() == given.keys()
    with pytest.raises(errors.InvalidRequest) as refused:
        engine_input.fitting({"properties": {"messages": {}}}, given, {})
    assert str(refused.value.path).split(".", 1)[0] == name


@pytest.mark.parametrize(("api", "name"), members(Treatment.HINT))
def test_a_hint_goes_where_there_is_room_for_it(api: str, name: str) -> None:
    """It changes nothing elsewhere."""
    asked = request(api, **{name: SAMPLES[name]})
    asked.check()
    room = {"properties": {"extra_body": {}}}
    assert engine_input.fitting(room, {}, asked.hints()) == {"extra_body": {name: SAMPLES[name]}}
    assert engine_input.fitting({"properties": {"messages": {}}}, {}, asked.hints()) == {}


@pytest.mark.parametrize("api", APIS)
def test_what_is_in_no_table_is_refused_by_name(api: str) -> None:
    """A member of tomorrow is not accepted without its meaning."""
    with pytest.raises(errors.InvalidRequest) as refused:
        request(api, tomorrow=1).check()
    assert refused.value.path == "tomorrow"
