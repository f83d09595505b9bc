"""Orders a thread's runs into a tree of messages, and names the branches of it. Pure.

A run follows the message that its spec names as `parent`; without one, the run that was created before it, so
that the newest run's branch is the default. A parent that a user said is answered again; after one that a run
produced, the run's own input comes first: several runs after the same message are its edits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mainstem_shared.model import messages
from mainstem_shared.model.runs import Spec

BEGINNING: Final = "root"
"""Stands for a parent where there is none: the run begins the thread anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A run in the tree.

    Attributes:
        spec: the run's.
        after: the message before the first one that the run adds; None at the beginning.
        answers: the run whose input it answers: another one's, if it is a regeneration.
        prefix: how many of that run's input messages stand before its answer; None: all of them.
    """

    spec: Spec
    after: str | None
    answers: Spec
    prefix: int | None = None

    @property
    def run_id(self) -> str:
        return self.spec.run_id

    @property
    def is_again(self) -> bool:
        """Whether the run answers what an earlier run's user said."""
        return self.answers.run_id != self.spec.run_id

    @property
    def is_answered(self) -> bool:
        """Whether its answer is part of the thread: not if the thread was forked before it."""
        return self.spec.forked_from is None or self.spec.forked_from.is_answered


class Tree:
    """All runs of a thread, as of one moment."""

    def __init__(self, specs: Iterable[Spec]) -> None:
        self.nodes: dict[str, Node] = {}
        self._owners: dict[str, tuple[Node, int | None]] = {}
        """By id of a message: the run that it came with, and how many of its inputs end with this one."""
        self._answers: dict[tuple[str, int | None], list[str]] = {}
        """By what is answered: the ids of its answers, oldest first."""
        self._edits: dict[str | None, list[str]] = {}
        """By the message before them: the ids of what was said there, oldest first."""
        previous: Node | None = None
        for spec in sorted(specs, key=lambda spec: (spec.created_ms, spec.run_id)):
            node = self._node(spec, previous)
            self.nodes[spec.run_id] = previous = node
            self._owners[spec.run_id] = (node, None)
            if node.is_answered:
                self._answers.setdefault((node.answers.run_id, node.prefix), []).append(node.run_id)
            if not node.is_again:
                self._owners.setdefault(messages.last_input_id(spec), (node, None))
                self._edits.setdefault(node.after, []).append(messages.last_input_id(spec))
        self.newest = previous

    def _node(self, spec: Spec, previous: Node | None) -> Node:
        if spec.parent == BEGINNING:
            return Node(spec=spec, after=None, answers=spec)
        if spec.parent is None or (found := self.owner(spec.parent)) is None:
            # also of a parent that is gone: what was said stays in the default branch
            return Node(spec=spec, after=previous.run_id if previous else None, answers=spec)
        node, prefix = found
        if spec.parent == node.run_id:
            return Node(spec=spec, after=node.run_id, answers=spec)
        return Node(spec=spec, after=node.after, answers=node.answers, prefix=prefix)

    def last_message(self, node: Node) -> str:
        """Return the id of the last message that a run adds: its answer, if that is part of the thread."""
        return node.run_id if node.is_answered else messages.last_input_id(node.spec)

    def before(self, node: Node) -> str | None:
        """Return the id of the message before the first one that a run adds."""
        previous = None if node.after is None else self.nodes.get(node.after)
        return node.after if previous is None else self.last_message(previous)

    def owner(self, message_id: str) -> tuple[Node, int | None] | None:
        """Return the run that a message came with, and its number among the inputs if it is not the last."""
        if found := self._owners.get(message_id):
            return found
        run_id, _, number = message_id.partition(".in.")
        node = self.nodes.get(run_id)
        return (node, int(number) + 1) if node and number.isascii() and number.isdigit() else None

    def leaf(self, message_id: str) -> Node | None:
        """Return the newest run of the branch on which a message stands; None if there is no such message."""
        found = self.owner(message_id)
        if found is None:
            return None
        known, leaf = {found[0].run_id}, found[0]
        if message_id != leaf.run_id:  # everything that answers it is below
            known = {n.run_id for n in self.nodes.values() if n.answers.run_id == leaf.answers.run_id}
            leaf = next(node for node in reversed(self.nodes.values()) if node.run_id in known)
        for node in self.nodes.values():
            if node.after in known:
                known.add(node.run_id)
                leaf = node
        return leaf

    def path(self, leaf: Node) -> list[Node]:
        """Return the runs of the branch that ends with this one, oldest first."""
        path = [leaf]
        while (after := path[-1].after) is not None and after in self.nodes:
            path.append(self.nodes[after])
        return path[::-1]

    def answers_to(self, node: Node) -> list[str]:
        """Return the ids of all answers to what this run answers, oldest first."""
        return list(self._answers.get((node.answers.run_id, node.prefix), ()))

    def edits_of(self, node: Node) -> list[str]:
        """Return the ids of all that was said in the place of what this run answers, oldest first."""
        return list(self._edits.get(node.after, ()))
