"""Buckets: their tags never change, and any number of nodes gets an even share of them."""

from __future__ import annotations

import base64
import hashlib
import uuid

import pytest
from redis.crc import key_slot

from mainstem_shared.model import buckets, ids
from mainstem_shared.store import keys


def test_the_tags_never_change():
    """They are where the data of every deployment is."""
    assert len(set(buckets.TAGS)) == buckets.BUCKETS == 1024
    digest = hashlib.sha256(" ".join(buckets.TAGS).encode()).hexdigest()
    assert digest == "b08456ea4ec8b7f32970a5d74a19e5dde210254d9f1dddf19f29b5cf3efe8128"


@pytest.mark.parametrize("nodes", [*range(1, 65), 100, 128, 333, 512, 1024])
def test_nodes_share_the_buckets_evenly(nodes: int):
    """A Cluster gives each node a range of slots: the share of each is the average, or one off at each end."""
    counts = [0] * nodes
    for tag in buckets.TAGS:
        counts[buckets.slot_of(tag) * nodes // buckets.SLOTS] += 1
    average = buckets.BUCKETS / nodes
    assert all(average - 2 < count < average + 2 for count in counts)


def test_threads_share_the_buckets_evenly():
    counts = [0] * buckets.BUCKETS
    for number in range(100 * buckets.BUCKETS):
        counts[buckets.bucket_of(ids.thread_tag("default", str(number)))] += 1
    assert 50 < min(counts) <= max(counts) < 160


def test_a_bucket_is_the_first_ten_bits_of_the_tag():
    for tag in (ids.thread_tag("default", str(number)) for number in range(1000)):
        (first, second) = base64.b32decode(tag.upper())[:2]
        assert buckets.bucket_of(tag) == first << 2 | second >> 6


def test_all_keys_of_a_run_and_the_indexes_that_list_it_are_in_the_buckets_slot():
    for number in range(100):
        run_id = ids.run_id("default", str(number), uuid.UUID(int=number))
        named = keys.run(run_id)
        tag = buckets.TAGS[buckets.bucket_of(run_id)]
        every = [*named, *keys.indexes(buckets.bucket_of(run_id)), keys.idempotency(run_id, "d")]
        assert {key_slot(key.encode()) for key in every} == {buckets.slot_of(tag)}
        assert (named.active, named.recent, named.compact) == keys.indexes(buckets.bucket_of(run_id))
