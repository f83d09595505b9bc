"""Content that an encoder accepts but a state cannot hold, and exceptions that do not want to be told: the run ends, honestly."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from pydantic import SecretStr

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.model.events import CONTENT_LIMIT
from mainstem_shared.model.runs import Reason, Run, Status
from mainstem_shared.settings import Settings
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.sdk.context import RunContext
from support.fakes.openai_server import Events, OpenAIServer, call_chunk, chunk
from support.processes.in_process_worker import working

Context = RunContext[dict[str, Any]]
SECRET = "sk-very-secret-0123456789"


def nested(levels: int) -> Any:
    """Return lists in lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def emit(run: Context, how: str, value: Any) -> None:
    match how:
        case "tool_call":
            await run.tool_call("c1", "t", {"a": value})
        case "tool_result":
            await run.tool_call("c1", "t", {})
            await run.tool_result("c1", value)
        case "custom":
            await run.custom("x", {"a": value})
        case "agent":
            await run.agent("a", details=value)
        case "context_usage":
            await run.context_usage(used=value)
        case "approval":
            await run.request_approval([{"call_id": "c", "name": "t", "arguments": {"a": value}}])
        case _:
            raise AssertionError(how)


@engine("nests")
async def nests(run: Context) -> None:
    """Emit something nested, by the way and as deep as the input says."""
    await run.text("before ")
    await emit(run, run.input["how"], nested(run.input["levels"]))
    await run.text("after")


@engine("odd_values")
async def odd_values(run: Context) -> Any:
    """Emit what JSON, or a decoder of it, does not have."""
    values: dict[str, Any] = {
        "huge": 10**5000,
        "large": 10**30,
        "nan": float("nan"),
        "surrogate": "half \ud800 emoji",
        "keys": {1: "one", None: "none", (1, 2): "pair"},
        "object": object(),
        "bytes": b"\xff\xfe",
    }
    await run.text("before ")
    await run.tool_call("c", "t", {})
    await run.tool_result("c", values[run.input["value"]])
    await run.usage(input_tokens=2**70)
    return object()  # what an engine returns is nobody's business


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Endless(Exception):
    def __str__(self) -> str:
        return str(self)


class Wordless(Exception):
    def __str__(self) -> Any:
        return None  # noqa: PLE0307 - that is what it is here for


class Renamed(type):
    @property
    def __name__(cls) -> str:
        raise KeyboardInterrupt


class Nameless(Exception, metaclass=Renamed):
    pass


class OddCode(errors.MainstemError):
    code = ("not", "a code")  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    message = "odd"


class Base(BaseException):
    pass


class Pretending(Exception):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("who asks?")


def chained() -> BaseException:
    """Return an exception whose causes lead back to it, over a thousand others."""
    first = last = ValueError("first")
    for number in range(1000):
        last.__cause__ = ValueError(f"cause {number}")
        last = last.__cause__
    last.__cause__ = first
    return first


def noted() -> BaseException:
    error = ValueError("noted")
    error.__notes__ = 7  # pyright: ignore[reportAttributeAccessIssue]
    return error


FAILURES: dict[str, Any] = {
    "unspeakable": Unspeakable,
    "exiting": Exiting,
    "endless": Endless,
    "wordless": Wordless,
    "nameless": Nameless,
    "odd_code": OddCode,
    "pretending": Pretending,
    "base": lambda: Base("boo"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator_exit": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "stop": StopAsyncIteration,
    "fenced": lambda: errors.Fenced(run_id="another"),
    "huge": lambda: ValueError("x" * 10_000_000),
    "surrogate": lambda: ValueError("bad \ud800 half \x00 nul"),
    "chained": chained,
    "noted": noted,
    "group": lambda: BaseExceptionGroup("g", [SystemExit(1), Unspeakable()]),
    "secret": lambda: ValueError(f"401 for redis://u:hunter22@h:1 with key {SECRET}, Bearer abcdefghijkl"),
}


@engine("raises")
async def raises(run: Context) -> None:
    """Say a word and raise what the input names."""
    await run.text("word")
    failure: BaseException = FAILURES[run.input["what"]]()
    raise failure


@engine("reaches_in")
async def reaches_in(run: Context) -> None:
    """Put into the fold itself, past every check, what no encoder or no decoder takes."""
    await run.text("word")
    await run.tool_call("c", "t", {})
    run._channel.fold.extra["agent"] = nested(run.input["levels"])
    run._channel.fold._calls["c"]["arguments"] = nested(run.input["levels"])


@engine("many")
async def many(run: Context) -> None:
    """Emit a million small things of one kind."""
    for number in range(1_000_000):
        match run.input["what"]:
            case "steps":
                async with run.step("s"):
                    pass
            case "parts":
                await (run.text if number % 2 else run.reasoning)("x")
            case "calls":
                await run.tool_call_start(f"c{number}", "t")
            case _:
                raise AssertionError


async def executed(
    runs: AsyncRuns, settings: Settings, name: str, run_input: dict[str, Any], **options: Any
) -> Run:
    """Run an engine to its end on a worker's runtime; the run must be over when its task is."""
    async with working(settings) as here:
        run_id = (await runs.start(f"thread-{name}", name, run_input, **options)).run_id
        await asyncio.wait_for(segments.execute(here, run_id, task_id="t"), 60)
    return await runs.get(run_id)


@pytest.mark.parametrize("levels", [251, 98, 150, 240, 400, 5000])
@pytest.mark.parametrize("how", ["tool_call", "tool_result", "custom", "agent", "context_usage", "approval"])
async def test_what_no_state_could_hold_is_refused_where_it_is_emitted(
    runs: AsyncRuns, settings: Settings, how: str, levels: int
):
    """The engine gets the error, the run ends with it, and every list and every deletion goes on working."""
    run = await executed(runs, settings, "nests", {"how": how, "levels": levels})
    if levels == 98 and how in ("tool_call", "tool_result", "agent", "context_usage", "custom"):
        assert run.status is Status.SUCCEEDED
    elif levels != 98:
        assert (run.status, run.reason, run.text) == (Status.FAILED, Reason.ENGINE_ERROR, "before ")
        assert run.error is not None
        assert "ValueError" in run.error.message or "Serialization" in run.error.message
    assert [listed.run_id for listed in (await runs.list()).runs] == [run.run_id]
    assert await runs.delete_thread("thread-nests") == 1


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")], ids=["lists", "objects", "both"]
)
@pytest.mark.parametrize("levels", [251, 5000])
async def test_what_a_model_nests_too_deeply_fails_its_call_only(
    runs: AsyncRuns, settings: Settings, provider: OpenAIServer, opening: str, closing: str, levels: int
):
    """Arguments of a tool call, through the engine as shipped: the run ends, and is listed, read and deleted."""
    arguments = '{"a":' + opening * levels + "1" + closing * levels + "}"
    pieces = [call_chunk(0, arguments, call_id="c", name="t"), call_chunk(1, "{}", call_id="d", name="u")]
    provider.reply(Events(chunks=[*pieces, chunk(finish="tool_calls")]))
    model = {"openai_base_url": provider.url, "openai_api_key": SecretStr("k"), "openai_model": "m"}
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    run = await executed(runs, settings.model_copy(update=model), "openai", asked)
    assert run.status is Status.SUCCEEDED
    deep, plain = run.content
    assert (deep["state"], deep["arguments"]) == ("failed", arguments)
    assert (plain["call_id"], plain["arguments"]) == ("d", {})
    assert [listed.run_id for listed in (await runs.list()).runs] == [run.run_id]
    assert await runs.delete_thread("thread-openai") == 1


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("large", 10**30), ("nan", None), ("surrogate", "half \ud800 emoji"),
        ("keys", {"1": "one", "None": "none", "1,2": "pair"}),
        ("huge", ValueError), ("object", ValueError), ("bytes", ValueError),
    ],
)  # fmt: skip
async def test_odd_values_are_kept_or_refused_but_never_stored_unreadably(
    runs: AsyncRuns, settings: Settings, value: str, kept: Any
):
    """Large numbers, NaN, half emojis and keys that are no strings come through; the rest is the engine's error."""
    run = await executed(runs, settings, "odd_values", {"value": value})
    if kept is ValueError:
        assert (run.status, run.reason) == (Status.FAILED, Reason.ENGINE_ERROR)
        return
    assert run.status is Status.SUCCEEDED
    assert run.content[1]["result"] == kept
    assert run.usage is not None
    assert run.usage.input_tokens == 2**70


@pytest.mark.parametrize("options", [{}, {"on_worker_lost": "resume"}])
@pytest.mark.parametrize("what", FAILURES)
async def test_whatever_an_engine_raises_ends_its_run_once_and_at_once(
    runs: AsyncRuns, settings: Settings, what: str, options: dict[str, Any]
):
    """As the engine's error, with a bounded, harmless text; never as a lost worker, never again."""
    began = time.monotonic()
    run = await executed(runs, settings, "raises", {"what": what}, **options)
    assert (run.status, run.reason, run.text) == (Status.FAILED, Reason.ENGINE_ERROR, "word")
    assert run.error is not None
    assert 0 < len(run.error.message) <= 2000
    assert "Mainstem could not" not in run.error.message  # judged, not rescued by the last resort
    assert not any(secret in run.error.message for secret in (SECRET, "hunter22", "abcdefghijkl"))
    assert time.monotonic() - began < 20


async def test_what_got_past_every_check_is_left_out_at_the_end(runs: AsyncRuns, settings: Settings):
    """The state cannot be encoded: the run ends without that value, as no success, and is read like any other."""
    run = await executed(runs, settings, "reaches_in", {"levels": 300})
    assert (run.status, run.reason, run.text) == (Status.FAILED, Reason.ENGINE_ERROR, "word")
    assert run.error is not None
    assert run.error.code == "content_damaged"
    assert run.content[1]["name"] == "t"


@pytest.mark.parametrize("what", ["steps", "parts", "calls"])
async def test_many_small_things_are_bounded_as_one_large_thing_is(
    runs: AsyncRuns, settings: Settings, what: str
):
    """Steps, parts and calls count with what the state puts around them: what is stored stays about 8 MB."""
    run = await executed(runs, settings, "many", {"what": what})
    assert (run.status, run.reason) == (Status.FAILED, Reason.CONTENT_TOO_LARGE)
    stored = len(jsontext.dumps(run.content)) + len(jsontext.dumps(run.steps))
    assert 0.4 * CONTENT_LIMIT < stored < 1.6 * CONTENT_LIMIT  # open calls get their results at the end


async def test_a_conclusion_that_fails_still_ends_the_run(
    runs: AsyncRuns, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """Whatever goes wrong between the engine's end and the run's, the log decides and the error says so."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a defect of our own")

    monkeypatch.setattr(segments.verdicts, "of_engine", broken)
    run = await executed(runs, settings, "demo", {"tokens": 3, "interval_ms": 0})
    assert (run.status, run.reason, run.text) == (Status.FAILED, Reason.ENGINE_ERROR, "w0 w1 w2")
    assert run.error is not None
    assert "unreadable" in run.error.message
