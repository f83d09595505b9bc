"""The tree of a thread's runs: defaults, edits, regenerations, leaves."""

from __future__ import annotations

import pytest

from mainstem_shared.model import messages
from mainstem_shared.model.branches import BEGINNING, Tree
from mainstem_shared.model.runs import Spec


def spec(run_id: str, at: int, **fields: str) -> Spec:
    return Spec(
        run_id=run_id,
        thread_id="t",
        user_id="u",
        tenant="d",
        engine="e",
        metadata={},
        created_ms=at,
        max_duration_s=1,
        **fields,  # pyright: ignore[reportArgumentType]
    )


def path(tree: Tree, message_id: str | None = None) -> list[str]:
    leaf = tree.newest if message_id is None else tree.leaf(message_id)
    assert leaf is not None
    return [node.run_id for node in tree.path(leaf)]


def test_runs_without_a_parent_follow_each_other_by_creation() -> None:
    """Also those of the same millisecond, in the order of their ids."""
    assert path(Tree([spec("c", 2), spec("a", 1), spec("b", 1)])) == ["a", "b", "c"]


def test_a_regeneration_takes_the_place_of_the_answer() -> None:
    """What follows it stands on its branch; the old branch is there still."""
    tree = Tree([spec("a", 1), spec("b", 2), spec("b2", 3, parent="b.in"), spec("c", 4)])
    assert path(tree) == ["a", "b2", "c"]
    assert path(tree, "b") == ["a", "b"]
    assert path(tree, "a") == ["a", "b2", "c"]
    assert tree.answers_to(tree.nodes["b2"]) == ["b", "b2"]
    assert tree.nodes["b2"].answers.run_id == "b"


def test_a_regeneration_of_a_regeneration_is_a_third_sibling() -> None:
    tree = Tree([spec("a", 1, message_id="m1"), spec("b", 2, parent="m1"), spec("c", 3, parent="m1")])
    assert tree.answers_to(tree.nodes["a"]) == ["a", "b", "c"]
    assert path(tree) == ["c"]
    assert path(tree, "m1") == ["c"]


def test_an_edit_takes_the_place_of_what_was_said() -> None:
    """It follows the same message as the one it replaces, also at the beginning of the thread."""
    tree = Tree([spec("a", 1), spec("b", 2), spec("x", 3, parent="a"), spec("y", 4, parent=BEGINNING)])
    assert path(tree) == ["y"]
    assert path(tree, "x") == ["a", "x"]
    assert tree.edits_of(tree.nodes["b"]) == ["b.in", "x.in"]
    assert tree.edits_of(tree.nodes["a"]) == ["a.in", "y.in"]


@pytest.mark.parametrize("parent", ["gone", "a.in.x", "a.in.-1", ".in.", "x"])
def test_a_parent_that_is_not_there_leaves_the_run_in_the_default_branch(parent: str) -> None:
    """Nothing that was said is lost from sight."""
    assert path(Tree([spec("a", 1), spec("x", 2, parent=parent)])) == ["a", "x"]


def test_a_parent_in_the_middle_of_what_a_run_brought_keeps_what_stands_before_it() -> None:
    tree = Tree([spec("a", 1), spec("x", 2, parent="a.in.0")])
    assert tree.nodes["x"].prefix == 1
    assert tree.answers_to(tree.nodes["x"]) == ["x"]


# -- what was said


def test_a_first_run_brings_its_whole_conversation_and_later_ones_what_is_new() -> None:
    chat = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "function": {"name": "f", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
    ]  # fmt: skip
    first = messages.said({"messages": chat}, is_first=True)
    assert [(turn.role, [part["type"] for part in turn.parts]) for turn in first] == [
        ("user", ["text"]), ("assistant", ["tool_call", "text"]), ("user", ["text"]),
    ]  # fmt: skip
    assert first[1].parts[0]["result"] == "r"
    later = messages.said({"messages": chat}, is_first=False)
    assert [turn.parts for turn in later] == [[{"type": "text", "text": "c"}]]


def test_an_input_without_messages_is_a_text_or_data() -> None:
    assert messages.turns({"text": "hi", "tokens": 3})[0].parts == [{"type": "text", "text": "hi"}]
    assert messages.turns({"tokens": 3})[0].parts[0]["value"] == {"tokens": 3}
    assert messages.turns({}) == []


@pytest.mark.parametrize(
    "hostile",
    [
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}, 3, None]}]},
        {"messages": [{"role": "assistant", "tool_calls": [3, {"function": 5}]}, 7, None]},
        {"messages": [{"role": 3, "content": {}}]},
        {"messages": "x"},
        {"messages": [{"role": "tool", "tool_call_id": {}, "content": 1}]},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": 3}, {"type": ["x"]}]}]},
    ],
)
def test_an_input_of_another_shape_breaks_nothing(hostile: dict[str, object]) -> None:
    """Engines take what they like: what cannot be understood is shown as data, or left out."""
    for turn in messages.turns(hostile):
        assert all(isinstance(part["type"], str) for part in turn.parts)
