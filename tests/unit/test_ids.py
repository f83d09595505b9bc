"""Ids and keys: computable by anybody, safe against anything a user may call a thread."""

from __future__ import annotations

import ast
import base64
import hashlib
import re
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.model.buckets import bucket_of
from mainstem_shared.store import keys
from support.paths import ROOT
from support.sources import parse

TEXT = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40)


@given(st.uuids(), st.text(min_size=1), st.text(min_size=1))
def test_a_run_id_can_be_computed_without_our_package(unique: uuid.UUID, tenant: str, thread_id: str):
    """The three documented lines: a web tier with plain Celery knows its run's id from the task's id."""
    tag = hashlib.blake2b(f"{tenant}\0{thread_id}".encode(), digest_size=10).digest()
    parts = [base64.b32encode(part).decode().rstrip("=").lower() for part in (tag, unique.bytes)]
    expected = "_".join(parts)
    assert ids.run_id(tenant, thread_id, unique) == expected


def test_the_id_of_a_known_run():
    """Run ids are stored by users: this one must never change."""
    known = ids.run_id("default", "thread-1", uuid.UUID("018f6a2e-0000-7000-8000-000000000001"))
    assert known == "5mzp2b7wpjf4engv_aghwulqaabyabaaaaaaaaaaaae"


@given(TEXT, TEXT, st.uuids())
def test_all_keys_of_a_run_follow_from_its_id_and_share_a_slot(
    tenant: str, thread_id: str, unique: uuid.UUID
):
    """One hash tag on all of them; nothing of the user's text in any; the thread's own keys are the same."""
    run = keys.run(ids.run_id(tenant, thread_id, unique))
    every = [*run, keys.idempotency(ids.run_id(tenant, thread_id, unique), "d")]
    assert len({re.fullmatch(r"ms:\{([0-9]{1,4})\}:[a-z0-9:]+", key)[1] for key in every}) == 1  # type: ignore[index]
    assert len(set(every)) == len(every)
    assert run.thread == keys.thread(tenant, thread_id)
    assert run.thread_runs == keys.thread_runs(tenant, thread_id)


def test_runs_of_a_thread_share_the_threads_keys_and_no_other():
    """A new turn has a record, a log, a snapshot and a checkpoint of its own; the bucket's indexes list all."""
    first_id, second_id = (ids.run_id("t", "thread", uuid.UUID(int=n)) for n in (1, 2))
    first, second = keys.run(first_id), keys.run(second_id)
    assert set(first) & set(second) == {*first[-7:]}
    assert first[-7:] == (
        first.thread,
        first.thread_runs,
        first.thread_queue,
        *keys.indexes(bucket_of(first_id)),
        keys.CALLBACKS[bucket_of(first_id)],
    )


@pytest.mark.parametrize(
    "hostile",
    [
        "", "x", "a" * 16, "a" * 16 + "_", "a" * 16 + "_" + "a" * 25, "a" * 16 + "_" + "a" * 27,
        "A" * 16 + "_" + "a" * 26, "a" * 16 + "_" + "1" * 26, "a" * 15 + "}_" + "a" * 26,
        "a" * 16 + "_" + "a" * 26 + "\n",
        "a" * 16 + "-" + "a" * 26, "ä" * 16 + "_" + "a" * 26, "*", "../" * 10,
    ],
)  # fmt: skip
def test_what_cannot_be_a_run_id_never_becomes_a_key(hostile: str):
    """Not found, as any other run that is not there."""
    with pytest.raises(errors.NotFound):
        keys.run(hostile)
    with pytest.raises(errors.NotFound):
        keys.idempotency(hostile, "d")


def test_tenant_and_thread_do_not_run_into_each_other():
    """The tenant's end is marked: no choice of names makes two tenants share a thread."""
    assert ids.thread_tag("a", "bc") != ids.thread_tag("ab", "c")
    assert ids.thread_tag("a", "b") != ids.thread_tag("b", "a")


def test_uuids_are_version_7_and_sort_by_time():
    """RFC 9562: version and variant bits, the time in milliseconds first; never the same twice."""
    before = time.time_ns() // 1_000_000
    made = [ids.uuid7() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert {(u.version, u.variant) for u in made} == {(7, uuid.RFC_4122)}
    assert all(before <= u.int >> 80 <= after for u in made)
    assert [u.int >> 80 for u in made] == sorted(u.int >> 80 for u in made)
    assert len(set(made)) == 1000
    assert len({ids.nonce() for _ in range(1000)}) == 1000


def _texts(tree: ast.AST) -> list[str]:
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_keys_are_built_in_one_module_only():
    """No string of the program outside `keys` looks like a key of ours."""
    suspicious = re.compile(
        rf"\b{keys.PREFIX}:|:(record|log|snapshot|checkpoint|thread|queue|lease|mail|idem)\b"
    )
    sources = [
        path
        for folder in ("api", "tasks", "workers", "shared")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "keys.py"
    ]
    found = [
        f"{path.relative_to(ROOT)}: {text!r}"
        for path in sources
        for text in _texts(parse(path.read_text("utf-8")))
        if suspicious.search(text)
    ]
    assert len(sources) > 10
    assert found == []
    assert all(suspicious.search(key) for key in keys.run(ids.run_id("a", "b", uuid.uuid4())))
