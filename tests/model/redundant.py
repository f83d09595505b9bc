"""Mutants that nobody can tell from the script, each with the reason why: (script, guard, constant) → reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REDUNDANT: Final[Mapping[tuple[str, str, str], str]] = {
    (
        "_prelude",
        "engine == ''",
        "false",
    ): "without an engine nothing is put or deleted, and no memory is there: it saves commands",
    ("_prelude", "readable", "true"): "the text of an error is no table, which the other operand refuses",
    ("admit", "run_id ~= '' #2", "true"): "nobody waits under the name '': the rank of it is none",
    (
        "claim",
        "status ~= 'queued'",
        "false",
    ): "only a queued run has `waiting`: whatever takes it out of the queue drops the field",
    (
        "compact",
        "redis.call('XLEN', log) == 1",
        "false",
    ): "a log of one entry, written anew, is the same: it saves the work",
    (
        "describe",
        "redis.call('EXISTS', record) == 1",
        "true",
    ): "a key that is not there gets no lifetime from PEXPIRE",
    (
        "drop_callbacks",
        "string.match(name, '^%d+%.%d+$')",
        "true",
    ): "no index entry is called like the other fields",
    (
        "draw",
        "closed > 0",
        "true",
    ): "a clock at the epoch, or a minute after it, is in the past either way",
    (
        "finish",
        "r[8] or everyone ~= ''",
        "true",
    ): "where nobody is named, nobody is called back: it saves the work",
    ("finish", "r[8]", "true"): "where nobody is named, nobody is called back: it saves the work",
    ("finish", "everyone ~= ''", "true"): "where nobody is named, nobody is called back: it saves the work",
    ("forget", "r[1]", "true"): "a record that is gone has no status, which is none of the unfinished ones",
    ("move", "not known[run_id]", "true"): "what is moved twice is not there the second time",
    ("move", "string.match(field, '^memory:')", "true"): "no key of a thread is called like its other fields",
    ("page", "size >= max_bytes", "true"): "the loop around it reads on, one entry at a time",
    (
        "promote",
        "r[1] ~= 'queued'",
        "false",
    ): "only a queued run has `waiting`: whatever takes it out of the queue drops the field",
    (
        "start",
        "digest ~= ''",
        "true",
    ): "without an idempotency key nothing is ever stored under the key of none",
    (
        "steer",
        "status == 'running' #2",
        "true",
    ): "a run that waits has no owner: whatever lets go of it drops the field",
}
"""A guard is called by its text, the second one of a script that reads the same with ` #2`."""
