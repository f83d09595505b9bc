"""Engines: registering, finding, describing, and what arrives from other people's packages."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from mainstem_shared import errors
from mainstem_shared.model import bounded_schemas, jsontext
from mainstem_tasks.sdk import registry
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine
from mainstem_tasks.testing import run_engine


class Sizes(BaseModel):
    size: Annotated[int, Field(gt=0)]
    names: list[str] = []


@pytest.fixture(autouse=True)
def own_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test registers into a registry of its own that has the built-in engines."""
    registry.load()
    monkeypatch.setattr(registry, "_engines", dict(registry._engines))


def test_an_engine_is_found_and_described_by_its_name():
    """What `@engine` registered is what the worker runs and announces, and the function stays itself."""

    @engine("sized", input_model=Sizes, checkpoints=True)
    async def sized(run: RunContext[Sizes]) -> None:
        """Nothing."""

    found = registry.get("sized")
    assert found.source is sized
    assert found.checkpoints
    assert registry.of(sized) is found
    schema = registry.describe()["sized"]
    assert schema["properties"]["size"] == {"exclusiveMinimum": 0, "title": "Size", "type": "integer"}
    assert schema["required"] == ["size"]


def test_a_class_of_runs_is_announced_with_the_schema():
    """Starts learn an engine's class from what workers announce; one that there is not is refused at once."""

    @engine("reported", input_model=Sizes, priority="batch")
    async def reported(run: RunContext[Sizes]) -> None:
        """Nothing."""

    schema = registry.describe()["reported"]
    assert schema["x-mainstem-priority"] == "batch"
    bounded_schemas.validate(jsontext.dumps(schema), {"size": 1})
    with pytest.raises(ValueError, match="'urgent' is no priority; there are 'interactive' and 'batch'"):
        engine("pressing", priority="urgent")  # type: ignore[call-overload]


def test_the_built_in_engines_come_through_entry_points():
    """The distribution's own engines arrive the way a user's do."""
    assert {"demo", "openai"} <= registry.describe().keys()


def test_an_unknown_engine_is_refused_with_the_known_names():
    """A typo shows at once what there is."""
    with pytest.raises(errors.UnknownEngine, match=r"'dmeo'.*demo"):
        registry.get("dmeo")


def test_a_name_is_given_once():
    """A second engine of the same name is refused, and the message names both places."""

    @engine("mine")
    async def first(run: RunContext[Any]) -> None: ...

    async def second(run: RunContext[Any]) -> None: ...

    with pytest.raises(ValueError, match=r"first already: .*second needs another name"):
        engine("mine")(second)
    assert registry.get("mine").source is first


def test_a_reloaded_module_replaces_its_own_engines():
    """Registering the same place again is no conflict: the newer function counts."""

    def define() -> Any:
        @engine("reloaded")
        async def reloaded(run: RunContext[Any]) -> None: ...

        return reloaded

    define()
    newer = define()
    assert registry.get("reloaded").source is newer


@pytest.mark.parametrize("name", ["", "with space", "-dash", "a" * 129, "new\nline"])
def test_a_malformed_name_is_refused(name: str):
    """What a client could not ask for cannot be registered."""
    with pytest.raises(ValueError, match="no engine name"):
        engine(name)


def test_what_cannot_run_is_refused():
    """Generators and objects are no engines: calling them would do nothing, silently."""

    def generator(run: Any) -> Any:
        yield

    async def async_generator(run: Any) -> Any:
        yield

    for candidate in (generator, async_generator, Sizes):
        with pytest.raises(ValueError, match="neither"):
            engine("odd")(candidate)  # type: ignore[call-overload]


def test_a_function_that_is_no_engine_is_not_found():
    """Testing a function that lacks its decorator says so."""

    async def bare(run: RunContext[Any]) -> None: ...

    with pytest.raises(LookupError, match="decorate it"):
        registry.of(bare)


async def test_the_engine_gets_its_model_and_the_raw_input():
    """`run.input` is the validated model, `run.raw_input` what was sent."""
    seen: list[Any] = []

    @engine("sized", input_model=Sizes)
    async def sized(run: RunContext[Sizes]) -> None:
        seen.extend([run.input, run.raw_input])

    await run_engine(sized, {"size": 2})
    assert seen == [Sizes(size=2), {"size": 2}]


async def test_an_engine_without_a_model_gets_the_mapping():
    """No model: the input comes as it is, and the announced schema refuses nothing."""
    seen: list[Any] = []

    @engine("free")
    async def free(run: RunContext[dict[str, Any]]) -> None:
        seen.append(run.input)

    await run_engine(free, {"any": ["thing"]})
    assert seen == [{"any": ["thing"]}]
    assert registry.describe()["free"] == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "size: Field required"),
        ({"size": 0}, "size: Input should be greater than 0"),
        ({"size": "x", "names": [1]}, "size: Input should be a valid integer.*; names.0: "),
        ({"size": 1, "names": [1, 2, 3, 4, 5]}, "and 2 more"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_in_words(given: dict[str, Any], said: str):
    """The message says where and why, and never repeats the input."""

    @engine("sized", input_model=Sizes)
    async def sized(run: RunContext[Sizes]) -> None: ...

    with pytest.raises(errors.InvalidInput, match=said) as refusal:
        registry.get("sized").parse(given)
    assert refusal.value.path in ("size", "names.0")


async def test_an_engine_that_exits_does_not_take_the_worker_with_it():
    """SystemExit is an engine's error like any other."""

    @engine("exits")
    async def exits(run: RunContext[Any]) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"SystemExit\(3\)"):
        await run_engine(exits)


def _install(site: Path, name: str, source: str) -> None:
    """Put a package with an entry point there, as an installer would."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mainstem.engines]\n{name} = {name}\n")


def test_broken_packages_are_reported_and_stop_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A user's package brings its engines; ones that crash, exit or clash are named in the log, loudly."""
    define = "from mainstem_tasks import engine\n@engine({!r})\nasync def it(run): ...\n"
    _install(tmp_path, "strangers_good", define.format("good"))
    _install(tmp_path, "strangers_broken", "import a_module_that_is_not_there")
    _install(tmp_path, "strangers_exit", "raise SystemExit(1)")
    _install(tmp_path, "strangers_clash", define.format("demo"))
    _install(
        tmp_path,
        "strangers_optional",
        "from mainstem_tasks.sdk.registry import MissingExtraError\nraise MissingExtraError('pip install it')",
    )
    monkeypatch.syspath_prepend(tmp_path)
    caplog.set_level(logging.INFO)
    registry.load.cache_clear()
    offered = registry.describe()
    assert "good" in offered
    assert registry.get("demo").source.__module__ == "mainstem_tasks.engines.demo"
    failed = {r.entry_point for r in caplog.records if getattr(r, "action", "") == "engine_load_failed"}
    assert failed == {"strangers_broken", "strangers_exit", "strangers_clash"}
    assert all(r.levelno == logging.ERROR for r in caplog.records if getattr(r, "entry_point", "") in failed)
    (optional,) = [r for r in caplog.records if getattr(r, "action", "") == "engine_not_installed"]
    assert optional.levelno == logging.INFO
    assert optional.getMessage().endswith("pip install it")


def test_a_missing_extra_names_its_remedy(monkeypatch: pytest.MonkeyPatch):
    """Without its client the openai engine says what to install."""
    from mainstem_tasks.engines.openai import engine as openai_engine

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(registry.MissingExtraError, match=r"mainstem\[openai\]"):
        importlib.reload(openai_engine)


async def test_engines_are_closed_whatever_one_of_them_does(caplog: pytest.LogCaptureFixture):
    """An engine that fails to close is logged, and the others are closed all the same."""
    closed: list[str] = []

    async def fails() -> None:
        raise RuntimeError("stuck")

    async def closes() -> None:
        closed.append("done")

    @engine("stuck", aclose=fails)
    async def stuck(run: RunContext[Any]) -> None: ...

    @engine("tidy", aclose=closes)
    async def tidy(run: RunContext[Any]) -> None: ...

    await registry.aclose()
    assert closed == ["done"]
    assert [r.engine for r in caplog.records if getattr(r, "action", "") == "engine_close_failed"] == [
        "stuck"
    ]
