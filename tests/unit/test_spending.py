"""Money: prices by model and version, costs in decimals, unknown ones, counts of both cache formats, the fold."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mainstem_shared import errors
from mainstem_shared.model import prices, usage
from mainstem_shared.model.contents import Content
from mainstem_shared.model.runs import Budget
from mainstem_shared.model.usage import TokenCounts, Usage
from mainstem_shared.operations import spending
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.turns.token_counts import tokens_of
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine
from mainstem_tasks.testing import run_engine

OWN = {
    "models": [
        {"provider": "here", "model": "m", "input": "1", "cached_input": "0.1", "cache_write": "1.25",
         "cache_write_1h": "2", "output": "4", "audio_input": "10"},
        {"model": "any", "input": 0.1, "output": 0.2},
    ]
}  # fmt: skip


def counts(**tokens: int) -> TokenCounts:
    return TokenCounts(**tokens)


# -- prices


def test_each_kind_of_token_has_its_price():
    """Parts are taken out of their whole: cached, written, written for an hour, audio; exactly, in decimals."""
    table = prices.table(json.dumps(OWN))
    used = counts(
        input_tokens=1000, cached_input_tokens=300, cache_write_tokens=200, cache_write_1h_tokens=50,
        audio_input_tokens=100, output_tokens=10,
    )  # fmt: skip
    cost = table.cost("here", "m", used)
    assert cost == Decimal("0.0017575")  # 400 + 30 + 187.5 + 100 + 1000 + 40 millionths
    assert usage.decimal_text(cost) == "0.0017575"


def test_sums_of_costs_are_exact():
    """Ten times a tenth is one: nothing is a binary fraction on the way."""
    table, total = prices.table(json.dumps(OWN)), None
    for _ in range(10):
        cost = table.cost("x", "any", counts(input_tokens=1_000_000))
        assert cost is not None
        call = usage.checked_call(call_id="c", input_tokens=1_000_000, cost_usd=usage.decimal_text(cost))
        total = usage.added(total, call)
    assert total is not None
    assert total["cost_usd"] == "1"
    assert total["models"][0]["calls"] == 10


def test_a_version_costs_as_much_as_its_model_unless_it_has_a_price():
    table = prices.table()
    assert table.find("openai", "gpt-4o-2024-08-06") == table.find("openai", "gpt-4o")
    dear = table.find("openai", "gpt-4o-2024-05-13")
    assert dear is not None
    assert dear.input == 5
    assert table.find("anthropic", "claude-haiku-4-5-20251001") is not None


@pytest.mark.parametrize(
    ("provider", "model"), [("localhost", "gpt-4o"), ("openai", "gpt-9"), ("openai", None), (None, "gpt-4o")]
)
def test_what_has_no_price_is_unknown(provider: str | None, model: str | None):
    """Null, never 0; also the same model served by somebody else."""
    assert prices.table().cost(provider, model, counts(input_tokens=5)) is None


def test_audio_without_a_price_is_unknown():
    assert prices.table().cost("openai", "gpt-4o", counts(input_tokens=5, audio_input_tokens=5)) is None


def test_one_unknown_cost_makes_the_sum_unknown_for_good():
    known = usage.checked_call(call_id="a", model="a", cost_usd="1")
    unknown = usage.checked_call(call_id="b", model="b")
    total = usage.added(usage.added(usage.added(None, known), unknown), known)
    assert total["cost_usd"] is None
    assert [(model["model"], model["cost_usd"]) for model in total["models"]] == [("a", "2"), ("b", None)]
    assert usage.added(usage.added(None, unknown), known)["cost_usd"] is None


def test_the_packaged_table_says_its_date_and_sources():
    packaged = json.loads((Path(prices.__file__).parent / "default_prices.json").read_text("utf-8"))
    assert packaged["as_of"]
    assert packaged["sources"]
    assert len(prices.table()) == len(packaged["models"]) > 10


def test_own_prices_come_on_top_or_instead(tmp_path: Path):
    """A path or JSON; what is not named keeps the packaged price, unless they are replaced."""
    file = tmp_path / "prices.json"
    file.write_text(
        json.dumps({"models": [{"provider": "openai", "model": "gpt-4o", "input": 1, "output": 1}]})
    )
    table = prices.table(str(file))
    own = table.find("openai", "gpt-4o")
    assert own is not None
    assert own.input == 1
    assert table.find("openai", "gpt-5") is not None
    assert prices.table(json.dumps({**OWN, "replace": True})).find("openai", "gpt-5") is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("/no/such/file", "cannot be read"),
        ("{", "no JSON"),
        ('{"models": 1}', "models"),
        ('{"models": [{"model": "m", "input": -1, "output": 1}]}', "models.0.input"),
        ('{"models": [{"model": "m", "input": "NaN", "output": 1}]}', "models.0.input"),
        ('{"models": [{"model": "m", "input": true, "output": 1}]}', "models.0.input"),
        ('{"models": [{"model": "m", "input": 1}]}', "models.0.output"),
        ('{"models": [{"model": "m", "input": 1, "output": 1, "per": 1000}]}', "models.0.per"),
    ],
)
def test_a_bad_table_says_where(given: str, words: str):
    with pytest.raises(errors.Misconfigured, match=words):
        spending.check(Settings(prices=given))


@pytest.mark.parametrize(
    "given", [{}, {"usd": 0}, {"usd": -1}, {"tokens": 0}, {"eur": 1}, {"usd": "much"}, {"tokens": 1.5}]
)
def test_a_bad_daily_budget_says_where(given: dict[str, Any]):
    with pytest.raises(errors.Misconfigured, match="MAINSTEM_USER_BUDGET_PER_DAY"):
        spending.check(Settings(user_budget_per_day=given))
    with pytest.raises(ValidationError):
        Budget.model_validate(given)


# -- counts


@pytest.mark.parametrize(
    ("said", "read"),
    [
        # OpenAI: the cached part is in the count
        ({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
          "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 7}}, (100, 60, None, 105)),
        # Anthropic: it is not
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 60,
          "cache_creation_input_tokens": 30}, (100, 60, 30, None)),
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 0,
          "cache_creation_input_tokens": 0}, (10, 0, 0, None)),
        ({"input_tokens": 10, "output_tokens": 5,
          "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
          "cache_creation_input_tokens": 30}, (40, None, 30, None)),
        # proxies that give Anthropic's parts beside a count of OpenAI's kind
        ({"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 60,
          "cache_creation_input_tokens": 30}, (100, 60, 30, None)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 60},
         (70, 60, None, None)),
        # DeepSeek
        ({"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 64}, (100, 64, None, None)),
    ],
)  # fmt: skip
def test_both_cache_formats_are_read(said: dict[str, Any], read: tuple[int | None, ...]):
    """Whatever a provider leaves out of its count, `input_tokens` is the whole request."""
    tokens = tokens_of(said)
    assert tokens is not None
    found = (tokens.input_tokens, tokens.cached_input_tokens, tokens.cache_write_tokens, tokens.total_tokens)
    assert found == read


def test_reasoning_beside_the_answer_is_part_of_it():
    """Some count it apart: their total tells."""
    tokens = tokens_of(
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 35,
         "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 1}}
    )  # fmt: skip
    assert tokens is not None
    assert (tokens.output_tokens, tokens.reasoning_tokens, tokens.audio_output_tokens) == (25, 20, 1)


# -- usage of a run


@engine("spends")
async def spends(run: RunContext[Any]) -> None:
    """Three calls of two models, one of which has no price."""
    await run.usage(model="gpt-4o", provider="openai", input_tokens=1000, output_tokens=100)
    await run.usage(model="gpt-4o", provider="openai", input_tokens=2000, cached_input_tokens=1000)
    await run.usage(model="mine", provider="here", input_tokens=1, estimated=True)


async def test_calls_are_a_list_and_sums_by_model():
    """In the content and in what readers get; dumped and loaded, they are the same."""
    result = await run_engine(spends)
    used = result.usage
    assert used is not None
    assert [(c.provider, c.model, c.cost_usd) for c in used.calls] == [
        ("openai", "gpt-4o", "0.0035"), ("openai", "gpt-4o", "0.00375"), ("here", "mine", None),
    ]  # fmt: skip
    assert [(m.model, m.calls, m.input_tokens, m.cost_usd) for m in used.models] == [
        ("gpt-4o", 2, 3000, "0.00725"), ("mine", 1, 1, None),
    ]  # fmt: skip
    assert (used.cost_usd, used.input_tokens, used.estimated) == (None, 3001, True)
    again = Content()
    again.load(json.loads(json.dumps(result.fold.dump())))
    assert again.usage == result.fold.usage
    assert abs(again.weight - result.fold.weight) < 8  # brackets of what is empty


def test_the_list_is_bounded_and_the_sums_are_not():
    fold, total = Content(), None
    for n in range(usage.CALLS_KEPT + 5):
        event = usage.added(total, usage.checked_call(call_id=str(n), input_tokens=1))
        total = {name: value for name, value in event.items() if name != "call"}
        fold.apply("usage", event)
    read = Usage.model_validate(fold.usage)
    assert (len(read.calls), read.models[0].calls) == (usage.CALLS_KEPT, usage.CALLS_KEPT + 5)


@pytest.mark.parametrize(
    "wrong",
    [{"input_tokens": -1}, {"output_tokens": 1.5}, {"input_tokens": "3"}, {"cached_input_tokens": True}],
)
async def test_counts_that_are_none_are_refused(wrong: dict[str, Any]):
    """The mistake shows where it is made, with its name."""

    async def body(run: RunContext[Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await run.usage(**wrong)

    result = await run_engine(engine("wrong")(body))
    assert result.usage is None


def test_rows_for_tables_have_each_model_once():
    """One by model; a usage of an earlier version is one row without a model; none has none."""
    calls = [
        usage.checked_call(
            call_id="1", model="m", provider="p", input_tokens=3, total_tokens=3, cost_usd="0.5"
        )
    ] * 2
    total = None
    for call in calls:
        total = {k: v for k, v in usage.added(total, call).items() if k != "call"}
    about: dict[str, Any] = {"run_id": "r", "tenant": "t", "user_id": "u", "day": "2026-01-01"}
    (row,) = usage.rows(total, **about)
    assert (row.provider, row.model, row.calls, row.total_tokens, row.cost_usd) == (
        "p",
        "m",
        2,
        6,
        Decimal(1),
    )
    (old,) = usage.rows({"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}, **about)
    assert (old.model, old.total_tokens, old.cost_usd) == ("", 7, None)
    assert list(usage.rows(None, **about)) == []
    assert list(usage.rows({"input_tokens": "?"}, **about)) == []
