"""Each verb twice: as a Lua script with a header, and as a typed function. Here they are held together."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import pytest

from mainstem_shared import transitions
from mainstem_shared.model import callbacks, ids, runs
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.events import Type
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys as store_keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions.descriptions import of_run
from support.models.specs import spec

RUN = ids.run_id("t", "t", uuid.UUID(int=1))
CONTROL = transitions.Control(run_id=RUN, epoch=2, owner="me")
SPEC = spec(RUN, tenant="t")
TOP = Cursor(2, 1)
DELIVERY = callbacks.DeliveryId(RUN, 2, 1)
ACTION = Action(
    action_id="a", kind="question", questions=(Question(question_id="q", text="?"),), expires_ms=1
)
PACE = transitions.Pace(key=store_keys.pace("p"), requests=1, tokens=1)
ORIGINAL = transitions.Original(
    run_input=b"{}",
    state={},
    reason=runs.Reason.COMPLETED,
    error=None,
    decisions=[],
    description=Description(),
)

CALLS: dict[str, Callable[[Any], Any]] = {
    "start": lambda s: transitions.start(
        s, SPEC, b"{}", nonce="n", if_active="reject", live_ttl_ms=1, thread_ttl_ms=1, idempotency=("a", "b")
    ),
    "claim": lambda s: transitions.claim(s, RUN, nonce="n", owner="o", task_id="t", live_ttl_ms=1),
    "seal": lambda s: transitions.seal(s, RUN, nonce="n", sealer="o", epoch=2, cause="c"),
    "finish": lambda s: transitions.finish(
        s,
        CONTROL,
        nonce="n",
        top=TOP,
        reason=runs.Reason.COMPLETED,
        state={},
        error=runs.ErrorInfo(code="c", message="m"),
        retention_ms=1,
        compact_after_ms=60_000,
    ),
    "snapshot": lambda s: transitions.snapshot(s, CONTROL, cursor=TOP, state=b"{}", live_ttl_ms=1),
    "handover": lambda s: transitions.handover(
        s, CONTROL, nonce="n", top=TOP, resume_as="run.restarted", cause="c", state=b"{}", live_ttl_ms=1
    ),
    "resync": lambda s: transitions.resync(s, CONTROL, nonce="n", state=b"{}", live_ttl_ms=1),
    "stop": lambda s: transitions.stop(s, RUN, reason=runs.Reason.USER_ABORT),
    "published": lambda s: transitions.published(s, RUN, task_id="t"),
    "describe": lambda s: transitions.describe(
        s, of_run(RUN), change=Description(title="t", labels=None, metadata={}), again=(RUN, 1)
    ),
    "copy": lambda s: transitions.copy(
        s, SPEC, ORIGINAL, nonce="n", previous="", retention_ms=1, compact_after_ms=1
    ),
    "compact": lambda s: transitions.compact(s, RUN),
    "read": lambda s: transitions.read(s, RUN),
    "page": lambda s: transitions.page(s, RUN, after=TOP),
    "release": lambda s: transitions.release(
        s, transitions.Ended(run_id=RUN, user_id="u", nonce="n"), hot_ms=1
    ),
    "dump": lambda s: transitions.dump(s, RUN),
    "pause": lambda s: transitions.pause(
        s,
        CONTROL,
        nonce="n",
        top=TOP,
        spec=SPEC,
        action=ACTION,
        fold=Content(),
        checkpoint=b"c",
        settings=Settings(),
    ),
    "resolve": lambda s: transitions.resolve(
        s,
        RUN,
        nonce="n",
        action_id="a",
        fingerprint="f",
        digest="d",
        decisions={},
        kind=Type.APPROVAL_RESOLVED,
        body={},
        live_ttl_ms=1,
    ),
    "checkpoint": lambda s: transitions.checkpoint(
        s, CONTROL, cursor=TOP, state=b"c", fold=b"{}", live_ttl_ms=1
    ),
    "promote": lambda s: transitions.promote(s, RUN, live_ttl_ms=1, thread_ttl_ms=1),
    "forget": lambda s: transitions.forget(s, RUN),
    "effect": lambda s: transitions.effect(s, CONTROL, key="k", entry=b"{}", replace=False, live_ttl_ms=1),
    "keep_event": lambda s: transitions.keep_event(
        s, store_keys.events("t", "u", "e"), event_id="e", entry=b"1 2", ttl_ms=1
    ),
    "enlist": lambda s: transitions.enlist(s, store_keys.run_children(RUN), run_id=RUN, ttl_ms=1),
    "erase": lambda s: transitions.erase(s, "t", "t"),
    "steer": lambda s: transitions.steer(s, RUN, input_id="i", text="t", by=None),
    "inbox": lambda s: transitions.inbox(s, CONTROL, read=1, known=1),
    "set_callback": lambda s: transitions.set_callback(s, RUN, before=b"", callback=b"{}"),
    "note_attempt": lambda s: transitions.note_attempt(s, DELIVERY),
    "redeliver": lambda s: transitions.redeliver(s, RUN, epoch=2, spec=b"{}", event=b"{}", targets=["task"]),
    "drop_callbacks": lambda s: transitions.drop_callbacks(s, RUN),
    "take_due": lambda s: transitions.take_due(s, store_keys.indexes(0).active, limit=1, hold_ms=1),
    "move": lambda s: transitions.move(s, RUN.split("_")[0], [RUN]),
    "reserve": lambda s: transitions.reserve(
        s,
        store_keys.run_spending(RUN),
        call_id="c",
        day="d",
        nanos=1,
        tokens=1,
        limit_nanos=1,
        limit_tokens=1,
        ttl_ms=1,
    ),
    "settle": lambda s: transitions.settle(
        s, store_keys.run_spending(RUN), call_id="c", nanos=1, tokens=1, sums={}
    ),
    "draw": lambda s: transitions.draw(s, PACE, tokens=1),
    "correct": lambda s: transitions.correct(s, PACE, known="0", tokens=1),
    "shut": lambda s: transitions.shut(s, PACE, for_ms=1),
    "admit": lambda s: transitions.admit(s, "q", window=1, live_ttl_ms=1),
    "take_slot": lambda s: transitions.take_slot(
        s, tenant="t", user_id="u", run_id=RUN, limit=1, live_ttl_ms=1, replacing_tag=""
    ),
}
"""One call of each verb's function; a verb that is new must be added here."""

READS = {"read", "page", "dump"}
"""Scripts that write nothing; they answer with what they read, not with a word."""

SCRIPTS = {value.name: value for value in vars(transitions).values() if isinstance(value, Script)}


class Called(Exception):
    """What a function passed to its script."""


class Recorder(Store):
    """A store that runs nothing."""

    async def verb(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        patience_s: float | None = None,
    ) -> list[Any]:
        raise Called(script, keys, args)


def source(name: str) -> str:
    return (resources.files("mainstem_shared") / "transitions" / "lua" / f"{name}.lua").read_text("utf-8")


def listed(text: str, what: str) -> list[str]:
    """The names that a header lists under KEYS or ARGV: `KEYS  1 record  2 log`, over several lines."""
    block = re.search(rf"^{what}((?:  .*\n| +\d+ .*\n| {{5,}}.*\n)+)", text, re.MULTILINE)
    if block is None:
        return []
    numbered = re.findall(r"(?:^|\s)(\d+) ([a-z].*?)(?=\s{2,}\d|\n|$)", block[1])
    assert [int(number) for number, _ in numbered] == list(range(1, len(numbered) + 1)), (what, numbered)
    return [name for _, name in numbered]


def test_every_verb_is_held_together_here():
    """A verb without a call in this file would not be compared; each is a function of its script's name."""
    assert set(CALLS) == set(SCRIPTS)
    assert {name for name in SCRIPTS if not callable(getattr(transitions, name, None))} == set()


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_function_passes_what_the_header_lists(name: str):
    """As many keys and arguments, and what the script unpacks; the keys' names agree too."""
    text = source(name)
    with pytest.raises(Called) as called:
        asyncio.run(CALLS[name](Recorder("redis://unused")))
    script, keys, args = called.value.args
    assert script.name == name
    assert len(keys) == len(listed(text, "KEYS"))
    assert len(args) == len(listed(text, "ARGV"))
    assert None not in args
    assert "" not in keys
    unpacked = re.findall(r"^local ([\w, \n]+?) =\s+unpack\((KEYS|ARGV)\)", text, re.MULTILINE)
    for names, what in unpacked:
        assert len(names.split(",")) == len(listed(text, what)), what
    for key, label in zip(keys, listed(text, "KEYS"), strict=True):
        assert _kind(key) in label, (key, label)


def _kind(key: str) -> str:
    spelled = {"runs": "runs", "idem": "idempotency"}
    kind = key.split("}:")[1].split(":")[-2 if ":idem:" in key or ":memory:" in key else -1]
    return spelled.get(kind, kind)


@pytest.mark.parametrize("name", sorted(set(CALLS) - READS))
def test_the_header_lists_every_answer(name: str):
    """Every word that the script may answer stands in its header, and no other."""
    text = source(name)
    header, _, body = text.partition("--]]")
    answers = set(re.findall(r"return \{ '(\w+)'", body)) | set(
        re.findall(r"return \{ [\w.]+ == \w+ and '(\w+)' or '\w+'", body)
    ) | set(re.findall(r"return \{ [\w.]+ == \w+ and '\w+' or '(\w+)'", body))  # fmt: skip
    documented = set(re.findall(r"\{'(\w+)'", header[header.index("Returns") :]))
    assert answers == documented


@pytest.mark.parametrize("name", sorted(CALLS))
def test_flags_say_what_a_verb_may_do(name: str):
    """Ending, sealing and trimming run when memory is full; what makes more of it does not."""
    first = source(name).partition("\n")[0]
    ends_or_frees = {
        "finish",
        "seal",
        "snapshot",
        "handover",
        "resync",
        "stop",
        "compact",
        "release",
        "promote",
        "forget",
        "erase",
        "take_due",
        "pause",
        "settle",
        "admit",
        "correct",
        "shut",
        "note_attempt",
        "drop_callbacks",
    }
    assert ("allow-oom" in first) == (name in ends_or_frees)
    assert ("no-writes" in first) == (name in READS)


def test_every_script_is_a_verb():
    """No Lua file is left over; each begins with a shebang and a header of one sentence."""
    files = {
        p.name
        for p in (resources.files("mainstem_shared") / "transitions" / "lua").iterdir()
        if p.name.endswith(".lua")
    }
    for file in files - {"_prelude.lua"}:
        text = source(file.removesuffix(".lua"))
        assert text.startswith("#!lua"), file
        assert "\n--[[\n" in text, file
    assert {f"{name}.lua" for name in SCRIPTS} == files - {"_prelude.lua"}
