"""The openai engine's tool loop against a scripted server: who decides, what runs, what the model gets back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import SecretStr

from mainstem_shared.model import actions
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.turns.loop import TooManyIterationsError
from mainstem_tasks.testing import EngineRun, MemoryChannel, run_engine
from support.engines import toolshed
from support.fakes.openai_server import Events, OpenAIServer, Refusal, answer, call_chunk, chunk
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("closing_clients")


def calling(*calls: tuple[str, Any], ids: tuple[str, ...] | None = None) -> Events:
    """An answer that calls tools: (name, arguments), in parallel."""
    pieces = [
        call_chunk(
            index,
            arguments if isinstance(arguments, str) else json.dumps(arguments),
            call_id=ids[index] if ids else f"c{index}",
            name=name,
        )
        for index, (name, arguments) in enumerate(calls)
    ]
    return Events(chunks=[*pieces, chunk(finish="tool_calls")])


async def asked(provider: OpenAIServer, *, policy: Any = None, **options: Any) -> EngineRun:
    wanted: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Do it."}],
        "use_tools": ["transfer", "weather", "fails", "slow", "returns", "page", "working"],
        **options.pop("wanted", {}),
    }
    settings = Settings(
        openai_base_url=provider.url,
        openai_api_key=SecretStr("sk-x"),
        openai_model="m",
        tool_policy=policy,
    )
    return await run_engine("openai", wanted, settings=settings, **options)


async def resumed(
    provider: OpenAIServer, paused: EngineRun, decisions: list[dict[str, Any]], **options: Any
) -> EngineRun:
    """Play the continuation of a paused run in which a human decided this."""
    assert paused.action is not None
    request = actions.parse_request({"action_id": paused.action.action_id, "decisions": decisions})
    decided = actions.decisions_of([{"decisions": actions.judge(paused.action, request)}])
    channel = MemoryChannel(paused.fold, epoch=9)
    return await asked(
        provider, channel=channel, segment=2, state=paused.checkpoint, decisions=decided, **options
    )


def transcript(provider: OpenAIServer) -> list[dict[str, Any]]:
    """The messages of the last request, which must be valid: each call answered once, in order, at once."""
    messages = provider.requests[-1].body["messages"]
    expected: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == expected.pop(0)
        else:
            assert not expected
            expected = [call["id"] for call in message.get("tool_calls", ())]
    assert not expected
    return messages


async def test_results_go_back_to_the_model(provider: OpenAIServer):
    """Without a policy tools run at once, in parallel; the model answers with what they returned."""
    provider.reply(calling(("weather", {"city": "Rome"}), ("weather", {"city": "Oslo", "days": 2})))
    provider.reply(answer("Sunny."))
    result = await asked(provider)
    assert result.text == "Sunny."
    _, called, first, second = transcript(provider)
    assert called["content"] is None
    assert [first["content"], second["content"]] == ["sun in Rome for 1", "sun in Oslo for 2"]
    described = provider.requests[0].body["tools"]
    weather = next(tool["function"] for tool in described if tool["function"]["name"] == "weather")
    assert weather["parameters"]["required"] == ["city"]
    assert [part["state"] for part in result.content[:2]] == ["completed", "completed"]


async def test_one_is_approved_one_edited_one_rejected(provider: OpenAIServer):
    """Parallel calls are one action; nothing runs before it is decided; the transcript is valid afterwards."""
    provider.reply(
        calling(
            ("transfer", {"amount": 1, "to": "ann"}),
            ("transfer", {"amount": 2, "to": "bob"}),
            ("transfer", {"amount": 3, "to": "eve"}),
            ("weather", {"city": "Rome"}),
        )
    )
    paused = await asked(provider)
    assert paused.action is not None
    assert [call.call_id for call in paused.action.calls] == ["c0", "c1", "c2"]
    assert {part["state"] for part in paused.content} == {"called"}
    provider.reply(answer("Done."))
    done = await resumed(
        provider,
        paused,
        [
            {"call_id": "c0", "type": "approve"},
            {"call_id": "c1", "type": "edit", "arguments": {"amount": 20, "to": "bob"}},
            {"call_id": "c2", "type": "reject", "reason": "I do not know her"},
        ],
    )
    assert done.text == "Done."
    _, called, *results = transcript(provider)
    assert [json.loads(call["function"]["arguments"]) for call in called["tool_calls"]] == [
        {"amount": 1, "to": "ann"},
        {"amount": 20, "to": "bob"},
        {"amount": 3, "to": "eve"},
        {"city": "Rome"},
    ]
    sent = [json.loads(message["content"]) for message in results[:3]]
    assert [item.get("sent") for item in sent] == [1, 20, None]
    assert sent[2] == {"error": "The user rejected this call: I do not know her"}
    assert results[3]["content"] == "sun in Rome for 1"
    assert len({item["key"] for item in sent[:2]}) == 2
    assert [part["state"] for part in done.content[:4]] == ["completed", "completed", "failed", "completed"]
    assert done.content[1]["arguments"] == {"amount": 20, "to": "bob"}


async def test_a_response_stands_in_for_the_result(provider: OpenAIServer):
    """With `respond` the tool does not run; the model reads what the human wrote."""
    policy = {
        "enabled": True,
        "ask": ["weather"],
        "decisions": {"weather": ["respond"]},
        "reasons": {"*": "why"},
    }
    provider.reply(calling(("weather", {"city": "Rome"})))
    paused = await asked(provider, policy=policy)
    assert paused.action is not None
    (call,) = paused.action.calls
    assert (call.allowed_decisions, call.reason) == (("respond",), "why")
    provider.reply(answer("Ok."))
    await resumed(provider, paused, [{"call_id": "c0", "type": "respond", "text": "rain"}], policy=policy)
    assert transcript(provider)[-1]["content"] == "rain"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nosuch", {}, "There is no tool 'nosuch'"),
        ("weather", {"town": "Rome"}, "city: Field required"),
        ("weather", {"city": 3}, "city: Input should be a valid string"),
        ("weather", '{"city": ', "not a JSON object"),
        ("fails", {}, "LookupError: nothing there"),
        ("slow", {}, "longer than 0.05 s"),
        ("transfer", {"amount": "much"}, "The arguments do not fit"),
    ],
)
async def test_mistakes_are_given_back_to_the_model(
    provider: OpenAIServer, name: str, arguments: Any, said: str
):
    """The run goes on; nobody is asked about a call that cannot run."""
    provider.reply(calling((name, arguments)))
    provider.reply(answer("Sorry."))
    result = await asked(provider)
    assert result.text == "Sorry."
    assert said in transcript(provider)[-1]["content"]
    assert result.content[0]["state"] == "failed"


async def test_the_model_reads_what_a_user_said_meanwhile(provider: OpenAIServer):
    """After the calls' results, as a message of the user; the transcript stays valid."""
    provider.reply(calling(("weather", {"city": "Rome"})))
    provider.reply(answer("Sunny."))
    run = await asked(provider, inbox=["In Rome, New York!"])
    assert run.text == "Sunny."
    *_, called, result, said = provider.requests[-1].body["messages"]
    assert (called["role"], result["role"]) == ("assistant", "tool")
    assert said == {"role": "user", "content": "In Rome, New York!"}
    assert [said["text"] for said in run.fold.inputs] == ["In Rome, New York!"]


async def test_a_denied_tool_does_not_run(provider: OpenAIServer):
    """The run's own policy can deny what the deployment allows; the model is told why."""
    provider.reply(calling(("weather", {"city": "Rome"})))
    provider.reply(answer("Sorry."))
    mine = {"enabled": True, "default": "allow", "deny": ["w*"], "reasons": {"w*": "no weather today"}}
    await asked(provider, wanted={"tool_policy": mine})
    assert json.loads(transcript(provider)[-1]["content"]) == {"error": "no weather today"}


async def test_a_run_cannot_loosen_the_deployments_policy(provider: OpenAIServer):
    """What the deployment asks about is asked, whatever the run's input says."""
    provider.reply(calling(("weather", {"city": "Rome"})))
    mine = {"enabled": True, "allow": ["*"]}
    paused = await asked(provider, policy={"enabled": True}, wanted={"tool_policy": mine})
    assert paused.action is not None


async def test_a_model_that_never_stops_calling_is_stopped(provider: OpenAIServer):
    """After `max_iterations` rounds one more call fails the run."""
    for _ in range(3):
        provider.reply(calling(("weather", {"city": "Rome"})))
    result = await asked(provider, wanted={"max_iterations": 2}, check=False)
    assert isinstance(result.error, TooManyIterationsError)
    assert len(provider.requests) == 3


async def test_ids_that_repeat_over_rounds_are_made_unique(provider: OpenAIServer):
    """Servers that count calls from zero in every answer get a valid transcript, too."""
    provider.reply(calling(("weather", {"city": "Rome"})))
    provider.reply(calling(("weather", {"city": "Oslo"})))
    provider.reply(answer("Ok."))
    await asked(provider)
    ids = [call["id"] for message in transcript(provider) for call in message.get("tool_calls", ())]
    assert len(set(ids)) == 2


async def test_the_callers_own_tools_are_left_to_the_caller(provider: OpenAIServer):
    """A call of a tool that only the caller described ends the run with the call open."""
    provider.reply(calling(("mine", {"x": 1})))
    described = [{"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}]
    result = await asked(provider, wanted={"tools": described})
    assert (len(provider.requests), result.content[0]["state"]) == (1, "called")


async def test_an_unknown_tool_in_the_input_fails_the_run(provider: OpenAIServer):
    """Before anything is sent to the provider."""
    result = await asked(provider, wanted={"use_tools": ["nosuch"]}, check=False)
    assert "no tool is registered as nosuch" in str(result.error)
    assert provider.requests == []


async def test_what_only_the_provider_understands_goes_back_after_a_pause_too(provider: OpenAIServer):
    """Reasoning of the message, signature of the call: as they came, whoever goes on with the run."""
    signed = {"google": {"thought_signature": "c2ln"}}
    call = {"index": 0, "id": "c0", "extra_content": signed}
    call["function"] = {"name": "transfer", "arguments": '{"amount": 1, "to": "ann"}'}
    thought = [chunk({"reasoning_content": piece}) for piece in ("I ", "pay.")]
    provider.reply(Events(chunks=[*thought, chunk({"tool_calls": [call]}), chunk(finish="tool_calls")]))
    paused = await asked(provider)
    provider.reply(answer("Paid."))
    await resumed(provider, paused, [{"call_id": "c0", "type": "approve"}])
    _, said, _ = transcript(provider)
    assert said["reasoning_content"] == "I pay."
    assert said["tool_calls"][0]["extra_content"] == signed


async def test_a_provider_that_refuses_its_own_members_is_asked_without_them_from_then_on(
    provider: OpenAIServer,
):
    """Once in a run: later requests do not try it again."""
    calls = [call_chunk(0, '{"city":"Rome"}', call_id="x", name="weather"), chunk(finish="tool_calls")]
    thinking = Events(chunks=[chunk({"reasoning": "Hm."}), *calls])
    refusal = Refusal(status=400, body={"error": {"message": "property 'reasoning' is unsupported"}})
    provider.reply(thinking, refusal, thinking, answer("Sunny."))
    result = await asked(provider)
    assert (result.error, len(provider.requests)) == (None, 4)
    assert all("reasoning" not in message for message in transcript(provider))


@pytest.mark.parametrize("name", ["weather", "transfer"])
async def test_large_arguments_fail_their_call_whether_or_not_a_human_is_asked(
    provider: OpenAIServer, name: str
):
    """One limit for all: events, actions and edits hold what is under it."""
    given = {"to": "y" * 140_000, "amount": 1} if name == "transfer" else {"city": "y" * 140_000}
    provider.reply(calling((name, given)), answer("Sorry."))
    result = await asked(provider)
    assert result.text == "Sorry."
    assert "The arguments have 140" in transcript(provider)[-1]["content"]


async def test_calls_that_are_large_together_fail_one_by_one(provider: OpenAIServer):
    """As many as fit are made, or asked about; the rest are told to the model."""
    large = {"to": "y" * 60_000, "amount": 1}
    provider.reply(calling(*[("transfer", large)] * 3))
    paused = await asked(provider)
    assert paused.action is not None
    assert [call.call_id for call in paused.action.calls] == ["c0", "c1"]


async def test_a_long_conversation_gives_up_the_ends_of_its_oldest_results(provider: OpenAIServer):
    """Results beyond a checkpoint's room do not end the run."""
    for number in range(20):
        provider.reply(calling(("page", {"size": 60_000}), ids=(f"p{number}",)))
    provider.reply(answer("Read."))
    result = await asked(provider, wanted={"max_iterations": 30})
    assert result.text == "Read."
    results = [message["content"] for message in transcript(provider) if message["role"] == "tool"]
    assert "shortened" in results[0]
    assert len(results[-1]) == 60_000


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("half", "half \ufffd"),
        ("pair", "😀"),
        ("nan", "[null]"),
        ("bytes", "cannot be shown"),
        ("object", "cannot be shown"),
    ],
)
async def test_whatever_a_tool_returns_the_run_goes_on(provider: OpenAIServer, kind: str, content: str):
    """It has run: the model must not think that it failed, and the request must be one that can be sent."""
    provider.reply(calling(("returns", {"kind": kind})), answer("Ok."))
    result = await asked(provider)
    assert result.text == "Ok."
    assert content in transcript(provider)[-1]["content"]
    assert result.content[0]["state"] == "completed"


async def test_halves_in_a_history_are_sent_as_replacement_characters(provider: OpenAIServer):
    """A history of an earlier version, or of another engine, does not break the request."""
    provider.reply(answer("Ok."))
    await asked(provider, wanted={"messages": [{"role": "user", "content": "cut \ud83d"}]})
    assert provider.requests[0].body["messages"][0]["content"] == "cut \ufffd"


async def test_the_callers_own_tool_without_its_arguments_is_no_call(provider: OpenAIServer):
    """A schema that requires something turns empty arguments into a failed call."""
    schema = {"type": "object", "properties": {"x": {}}, "required": ["x"]}
    described = [{"type": "function", "function": {"name": "mine", "parameters": schema}}]
    provider.reply(calling(("mine", "")))
    result = await asked(provider, wanted={"tools": described, "use_tools": []})
    assert (result.content[0]["state"], result.content[0]["arguments"]) == ("failed", "")


async def test_a_thread_learns_of_the_end_and_writes_nothing_after_it(provider: OpenAIServer):
    """The run is stopped while a plain `def` tool works: the log has its last entry then."""
    toolshed.LOOKS.clear()
    provider.reply(calling(("working", {})))
    channel = MemoryChannel()
    run = asyncio.create_task(asked(provider, channel=channel))
    await wait_until_async(lambda: bool(toolshed.LOOKS), description="the tool to work")
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    written = len(channel.events)
    await wait_until_async(lambda: toolshed.LOOKS[-1], description="the thread to see it")
    await asyncio.sleep(0.05)
    assert len(channel.events) == written
