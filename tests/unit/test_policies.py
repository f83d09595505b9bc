"""Tool policies: what each layer wants, and what they come to together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mainstem_tasks.sdk.policies import Effect, Policy, rule


def on(**fields: Any) -> Policy:
    return Policy(enabled=True, **fields)


EFFECTS: list[tuple[str, list[Policy | None], Effect]] = [
    ("no policy at all", [], Effect.ALLOW),
    ("none enabled", [None, Policy(deny=("*",))], Effect.ALLOW),
    ("enabled without lists asks for everything", [on()], Effect.ASK),
    ("allowed by name", [on(allow=("search",))], Effect.ALLOW),
    ("allowed by pattern", [on(allow=("s*ch",))], Effect.ALLOW),
    ("patterns see case", [on(allow=("SEARCH",))], Effect.ASK),
    ("in no list", [on(allow=("other",))], Effect.ASK),
    ("in no list, by default allowed", [on(default="allow", ask=("other",))], Effect.ALLOW),
    ("in several lists the strictest", [on(allow=("*",), ask=("s*",))], Effect.ASK),
    ("deny beats everything", [on(allow=("search",), ask=("search",), deny=("*",))], Effect.DENY),
    ("a run cannot loosen", [on(ask=("search",)), None, on(allow=("*",))], Effect.ASK),
    ("a run can tighten", [on(allow=("*",)), None, on(deny=("search",))], Effect.DENY),
    ("an engine cannot loosen a denial", [on(deny=("search",)), on(allow=("*",))], Effect.DENY),
    ("layers that are off say nothing", [Policy(), on(allow=("*",)), Policy(deny=("*",))], Effect.ALLOW),
]


@pytest.mark.parametrize(("layers", "effect"), [pytest.param(x, e, id=n) for n, x, e in EFFECTS])
def test_the_strictest_layer_counts(layers: list[Policy | None], effect: Effect):
    """Deployment, engine, run: each may tighten what stands before it."""
    assert rule("search", layers).effect is effect


DECISIONS: list[tuple[str, list[Policy], tuple[str, ...]]] = [
    ("the defaults", [on()], ("approve", "reject", "edit")),
    ("opting in to respond", [on(decisions={"*": ["approve", "respond"]})], ("approve", "respond")),
    ("a tool of its own", [on(decisions={"*": ["approve"], "search": ["reject"]})], ("reject",)),
    ("the longest pattern", [on(decisions={"*": ["approve"], "se*": ["edit"], "s*": ["reject"]})], ("edit",)),
    ("unknown ones count as reject", [on(decisions={"*": ["aprove"]})], ("reject",)),
    ("nothing leaves reject", [on(decisions={"*": []})], ("reject",)),
    ("layers narrow", [on(), on(decisions={"*": ["approve", "respond"]})], ("approve",)),
    (
        "layers that agree on nothing leave reject",
        [on(decisions={"*": ["approve"]}), on(decisions={"*": ["edit"]})],
        ("reject",),
    ),
]


@pytest.mark.parametrize(("layers", "allowed"), [pytest.param(x, a, id=n) for n, x, a in DECISIONS])
def test_decisions_are_what_all_layers_allow(layers: list[Policy], allowed: tuple[str, ...]):
    """Later layers cannot add any; mistakes in a configuration allow nothing."""
    assert rule("search", layers).allowed_decisions == allowed


def test_the_reason_is_that_of_the_layer_that_decides():
    """Of the strictest layers the first with a reason speaks."""
    lenient = on(allow=("*",), reasons={"*": "fine"})
    strict = on(ask=("search",), reasons={"s*": "it costs money", "*": "?"})
    assert rule("search", [lenient, strict]).reason == "it costs money"
    assert rule("search", [on()]).reason is None


def test_a_policy_with_a_typing_error_does_not_start():
    """Unknown members are refused: a misspelled list would otherwise be an empty one."""
    with pytest.raises(ValidationError):
        Policy.model_validate({"enabled": True, "denny": ["*"]})


PATTERNS = st.lists(st.sampled_from(["*", "a", "b*", "ab", "[ab]?"]), max_size=3).map(tuple)
POLICIES = st.builds(
    Policy,
    enabled=st.booleans(),
    allow=PATTERNS,
    ask=PATTERNS,
    deny=PATTERNS,
    default=st.sampled_from(["allow", "ask", "deny"]),
    decisions=st.dictionaries(
        st.sampled_from(["*", "a", "b*"]),
        st.lists(st.sampled_from(["approve", "reject", "edit", "respond", "?"])),
    ),
)


@given(st.lists(POLICIES, max_size=4), POLICIES, st.sampled_from(["a", "b", "ab", "bb"]))
def test_another_layer_never_loosens(layers: list[Policy], more: Policy, tool: str):
    """Whatever the layers: one more makes the effect no laxer, and adds no decision but a last `reject`."""
    enabled = [layer for layer in layers if layer.enabled]
    before, after = rule(tool, layers), rule(tool, [*layers, more])
    assert after.effect >= before.effect
    if enabled:
        assert set(after.allowed_decisions) <= {*before.allowed_decisions, "reject"}
    assert after.allowed_decisions


def test_the_order_of_lists_does_not_matter():
    """One verdict for all orders of the same patterns."""
    rulings = {rule("ab", [on(ask=order)]).effect for order in itertools.permutations(("a*", "*", "b"))}
    assert rulings == {Effect.ASK}
