"""The record's schema is what the scripts write: no other field, by no other verb, and none is forgotten."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

from mainstem_shared import errors
from mainstem_shared.model import record
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import RECORD_VERSION, Reason, Status
from support.models.specs import spec

LUA = resources.files("mainstem_shared") / "transitions" / "lua"
PAGE = Path(__file__).parents[2] / "docs" / "record.md"
OTHER_HASHES = {
    "snapshot",
    "checkpoint",
    "thread",
    "account",
    "memory",
    "effects",
    "events",
    "callbacks",
    "charged",
    "pace",
}
"""Variables of scripts that name another hash than a record."""
CALL = re.compile(r"redis\.call\('(HSET|HSETNX|HMSET|HINCRBY|HINCRBYFLOAT|HDEL|HSETEX|HGETDEL)',\s*")


def sources() -> dict[str, str]:
    """The scripts by verb, without comments; `promote_next` of the prelude is part of those that call it."""
    texts = {
        file.name.removesuffix(".lua"): re.sub(r"--(?!\[).*", "", file.read_text("utf-8"))
        for file in LUA.iterdir()
        if file.name.endswith(".lua")
    }
    prelude = texts.pop("_prelude")
    return {verb: text + (prelude if "promote_next(" in text else "") for verb, text in texts.items()}


def arguments(text: str, start: int) -> list[str]:
    """The arguments of a call from there to its closing parenthesis, split at commas outside of brackets."""
    found, depth, current, quoted = [], 0, "", False
    for character in text[start:]:
        quoted = quoted != (character == "'")
        if not quoted and character in ")}]" and depth == 0:
            return [*found, current.strip()]
        if not quoted:
            depth += (character in "({[") - (character in ")}]")
        if character == "," and depth == 0 and not quoted:
            found.append(current.strip())
            current = ""
        else:
            current += character
    raise AssertionError("a call that never ends")


def field_of(expression: str) -> str:
    """The name that an expression makes: a literal, or a literal followed by something (`resolved:*`)."""
    literal = re.fullmatch(r"'([^']+)'(\s*\.\..+)?", expression, re.DOTALL)
    assert literal is not None, f"a field whose name nobody can tell: {expression}"
    return literal[1] + ("*" if literal[2] else "")


def touched() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Which verbs write, and which delete, each field of a record."""
    written: dict[str, set[str]] = defaultdict(set)
    deleted: dict[str, set[str]] = defaultdict(set)
    for verb, text in sources().items():
        for call in CALL.finditer(text):
            key, *rest = arguments(text, call.end())
            if key in OTHER_HASHES:
                continue
            assert re.fullmatch(r"record|other|record_of\(.+\)|KEYS\[1\]", key), (verb, key)
            names = rest if call[1] == "HDEL" else rest[::2] if call[1] == "HSET" else rest[:1]
            for name in names:
                (deleted if call[1] == "HDEL" else written)[field_of(name)].add(verb)
    return written, deleted


def test_scripts_write_what_is_declared():
    """A field that a script writes or deletes is declared, with this verb; what is declared is written."""
    written, deleted = touched()
    assert {field.name: set(field.written_by) for field in record.declared()} == written
    assert {field.name: set(field.deleted_by) for field in record.declared() if field.deleted_by} == deleted


def test_scripts_read_what_is_declared():
    """A name that is asked for by mistake would be missing for ever."""
    names = {field.name for field in record.declared()}
    for verb, text in sources().items():
        for call in re.finditer(r"redis\.call\('(HMGET|HGET|HEXISTS)',\s*", text):
            key, *fields = arguments(text, call.end())
            if key not in OTHER_HASHES and not fields[0].startswith("unpack("):
                assert {field_of(field) for field in fields} <= names, verb


def test_the_state_is_what_the_verb_read_returns():
    """By name and in order: a field that is asked of a state and was not read would be an error."""
    listed = re.search(r"local names = \{(.*?)\}", sources()["read"], re.DOTALL)
    assert listed is not None
    assert re.findall(r"'(\w+)'", listed[1]) == [field.name for field in record.STATE]


def test_every_field_says_what_it_means():
    """Each is documented; no two have one name or one attribute."""
    fields = list(record.declared())
    assert all(field.meaning and field.written_by and field.since >= 1 for field in fields)
    assert len({field.name for field in fields}) == len({field.attribute for field in fields}) == len(fields)


def test_the_documentation_has_the_same_table():
    """docs/record.md is generated: `MAINSTEM_GOLDEN=write` writes it anew."""
    page = PAGE.read_text("utf-8")
    begin, end = "<!-- generated: fields -->\n", "<!-- end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    wanted = f"{before}{begin}{record.table()}{end}{after}"
    if os.environ.get("MAINSTEM_GOLDEN") == "write":
        PAGE.write_text(wanted, "utf-8")
    assert page == wanted


# -- the reader


def read(stored: dict[str, str], *more: str) -> Record:
    return Record({name: value.encode() for name, value in stored.items()}, [*stored, *more])


def test_values_have_types():
    """What is stored as text is read as what it means; absence has a meaning, too."""
    one = read(
        {"spec": spec("r").model_dump_json(), "status": "failed", "reason": "timed_out", "finished": "5"},
        "owner", "started",
    )  # fmt: skip
    assert (one.spec, one.status, one.reason) == (spec("r"), Status.FAILED, Reason.TIMED_OUT)
    assert (one.finished_ms, one.started_ms, one.owner) == (5, None, "")
    assert one.has(Record.status, Record.finished_ms)
    assert not one.has(Record.status, Record.owner)


def test_a_field_that_was_not_read_is_not_taken_for_missing():
    with pytest.raises(RuntimeError, match="stop_reason"):
        _ = read({"status": "running"}).stop_reason


def test_a_family_has_one_value_for_each_name():
    one = read({"resolved:a": "digest"}, "resolved:b")
    assert one.value(Record.resolution.of("a")) == "digest"
    assert one.value(Record.resolution.of("b")) is None


def test_damage_shows_where_it_is_asked_for():
    """The rest can be read; a field that every record has is missed."""
    one = read({"status": "nonsense", "epoch": "3"}, "spec")
    assert one.epoch == 3
    with pytest.raises(ValueError, match="nonsense"):
        _ = one.status
    with pytest.raises(KeyError):
        _ = one.spec


def test_a_record_of_a_later_version_is_not_changed():
    read({}, "v").check_version()
    with pytest.raises(errors.NewerVersion):
        read({"v": str(RECORD_VERSION + 1)}).check_version()


def test_nobody_reads_records_by_string():
    """One module asks the store for fields: by declaration, and gives values their types."""
    root = Path(__file__).parents[2]
    asks = re.compile(r"""["']HM?GET(ALL)?["'],[^\n]*\brecord\b|\.(hm?get|hgetall)\(""")
    readers = {
        path.relative_to(root).as_posix()
        for package in ("shared", "tasks", "workers", "api")
        for path in (root / package).rglob("*.py")
        if asks.search(path.read_text("utf-8"))
    }
    package = "shared/mainstem_shared/transitions"
    assert readers == {f"{package}/records.py", f"{package}/log.py"}  # the latter packs a writer's probe
