"""Whoever may call a verb in a state: with what the state says, with what was true before, and with what never was.

`Callers(database).calls()` lists every call that an exploration makes of a state. Each is made by the product's
typed function of the verb's name, so that keys and arguments are the shipped ones; none is executed here. Owners
append, and the store loses keys, by `changes()`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from mainstem_shared import transitions
from mainstem_shared.model import ids, jsontext, runs
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.callbacks import Attempts, DeliveryId
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor, parse
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.events import Type
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.snapshot_pacing import Patch
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import descriptions, spending
from model import clock
from model.redis_in_process import Database, Stream
from support.models.specs import spec

EARLY: Final = 1_000_000_000
WINDOW_MS: Final = 500_000
LATE: Final = EARLY + WINDOW_MS + 1_000
SOON: Final = EARLY + 20_000
MUCH_LATER: Final = EARLY + 5_000_000
"""When an action's window is over; when a thread's old runs are."""
LIVE_MS, SHORT_MS, THREAD_MS, RETENTION_MS = 600_000, 100_000, 900_000, 300_000
SETTINGS: Final = Settings()
NAMES: Final = ("A", "B", "C")
RUN_IDS: Final = {name: ids.run_id("default", "t", uuid.UUID(int=n)) for n, name in enumerate(NAMES, 1)}
FORK, FORK2 = (ids.run_id("default", "fork", uuid.UUID(int=n)) for n in (8, 9))
TAG: Final = ids.split(RUN_IDS["A"])[0]
EVERYONE: Final = jsontext.dumps(["https://all.example", "https://a.example"])
CALLBACK: Final = jsontext.dumps(
    {"to": ["https://a.example"], "all": ["https://b.example", "https://a.example"], "pauses": True}
)
QUIET_CALLBACK: Final = jsontext.dumps({"to": ["https://a.example"]})
STATE: Final[dict[str, Any]] = {"content": [], "steps": [], "usage": None, "title": None, "action": None}
PUT: Final = Changes(engine="demo", values={"said": b"x", "more": b"y"}, size=10, ttl_ms=THREAD_MS)
DELETE: Final = Changes(engine="demo", values={"said": None, "more": None}, size=0, ttl_ms=THREAD_MS)
DELETE_ONE: Final = Changes(engine="demo", values={"more": None, "other": b"z"}, size=6, ttl_ms=SHORT_MS)
FAILURE: Final = runs.ErrorInfo(code="c", message="m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A verb's call: `label` names caller and variant; it is made at `now`."""

    label: str
    script: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    now: int


class _Captured(BaseException):
    """The call is known; it is not made."""


class _Capture(Store):
    """A store that notes what a verb is called with."""

    def __init__(self) -> None:
        super().__init__("")
        self.call: tuple[str, Sequence[str], Sequence[Any]] = ("", (), ())

    async def verb(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        patience_s: float | None = None,
    ) -> list[Any]:
        del patience_s
        self.call = (script.name, keys, args)
        raise _Captured

    async def verbs(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        named, args = calls[0]
        return await self.verb(script, named, args)


def text(value: Any) -> str:
    """An argument as the server gets it."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value).encode().decode("latin-1")


_KNOWN: Final[dict[tuple[object, ...], list[Call]]] = {}


class Callers:
    """Everybody who may call a verb in one state."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = database.now
        self._store = _Capture()
        self._calls: dict[str, Call] = {}

    def calls(self) -> list[Call]:
        """List all calls."""
        calls: list[Call] = []
        for name, run_id in RUN_IDS.items():
            calls += self._known(
                "starts", (name, bool(self.record(run_id))), lambda n=name, r=run_id: self._starts(n, r)
            )
            if (
                self.record(run_id) or name == NAMES[0]
            ):  # who calls about another that is not there, learns the same
                calls += self._known(run_id, self._seen_of(run_id), lambda n=name, r=run_id: self._run(n, r))
        forks = tuple(map(self._seen_of, (FORK, FORK2)))
        calls += self._known("thread", forks, self._thread)
        calls += self._known("shared", None, self._shared)
        return calls

    def _run(self, name: str, run_id: str) -> None:
        self._life(name, run_id)
        self._beside(name, run_id)

    def _seen_of(self, run_id: str) -> tuple[object, ...]:
        """All that the calls about a run depend on."""
        k, data = keys.run(run_id), self.database.data
        stored = (data.get(key, {}) for key in (k.record, k.snapshot, k.callbacks))
        return (self.top(run_id), *(tuple(sorted(value.items())) for value in stored))

    def _known(self, kind: str, seen: object, make: Callable[[], None]) -> list[Call]:
        """Return the calls of a kind; states that look the same to their callers share them."""
        name = (kind, seen, self.now)
        if name not in _KNOWN:
            self._calls = {}
            make()
            _KNOWN[name] = list(self._calls.values())
        return _KNOWN[name]

    def _add(
        self,
        label: str,
        make: Callable[[Store], Coroutine[Any, Any, Any]],
        *,
        now: int = 0,
        tweak: Mapping[int, str] | None = None,
    ) -> None:
        """Note a call; `tweak` replaces arguments that the typed function has no parameter for."""
        at = max(now, self.now)
        clock.stand_at(at)
        with suppress(_Captured):
            make(self._store).send(None)
        script, named, args = self._store.call
        given = [text(arg) for arg in args]
        for place, value in (tweak or {}).items():
            given[place] = value
        full = f"{script} {label}"
        assert full not in self._calls, full
        self._calls[full] = Call(label=full, script=script, keys=tuple(named), args=tuple(given), now=at)

    # -- what a state says of a run

    def record(self, run_id: str) -> dict[str, str]:
        return self.database.data.get(keys.run(run_id).record, {})

    def control(self, run_id: str) -> transitions.Control:
        r = self.record(run_id)
        return transitions.Control(
            run_id=run_id, epoch=int(r.get("epoch", "1")), owner=r.get("owner", ""), nonce=r.get("nonce", "")
        )

    def top(self, run_id: str) -> Cursor:
        entries = self.database.data.get(keys.run(run_id).log, Stream()).entries
        return parse(entries[-1][0]) if entries else Cursor(0, 0)

    def controls(self, run_id: str) -> Iterator[tuple[str, transitions.Control]]:
        """The control in force, and those that differ from it in one respect."""
        right = self.control(run_id)
        yield "", right
        yield " in an old epoch", replace(right, epoch=right.epoch - 1)
        yield " as another owner", replace(right, owner="z")
        yield " with another nonce", replace(right, nonce="0.another")
        yield " without nonce", replace(right, nonce="")

    # -- starts

    def _starts(self, name: str, run_id: str) -> None:
        def start(
            label: str,
            *,
            user: str = "u",
            at: int = 0,
            nonce: str = "",
            tweak: Mapping[int, str] | None = None,
            **given: Any,
        ) -> None:
            made = spec(run_id, user_id=user, created_ms=max(at, self.now), on_worker_lost="resume")
            usual: dict[str, Any] = {
                "nonce": nonce or f"0.start{name}", "if_active": "reject", "live_ttl_ms": LIVE_MS,
                "thread_ttl_ms": THREAD_MS,
            }  # fmt: skip
            self._add(
                f"{name}{label}",
                lambda store: transitions.start(store, made, b'{"a":1}', **{**usual, **given}),
                tweak=tweak,
                now=at,
            )

        start("")
        start(" again by another", nonce="0.other")
        if self.record(run_id):
            return  # whatever else it asks for, it is there
        start(" in the queue", if_active="enqueue")
        start(" in a queue of one", if_active="enqueue", tweak={11: "1"})
        start(" to replace", if_active="replace")
        start(" once", idempotency=("k", "d1"))
        start(" once, with another body", idempotency=("k", "d2"))
        start(" for himself", private="private")
        start(" for another", private="private", user="v", if_active="enqueue")
        start(" for another, unasked", user="v", if_active="enqueue")
        start(" perhaps archived", private="archived")
        start(" of another, perhaps archived", private="archived", user="v")
        start(" with callbacks", callback=CALLBACK)
        start(" with callbacks at its end", callback=QUIET_CALLBACK)
        start(" with damaged callbacks", callback=b"7")
        start(" much later", at=MUCH_LATER)
        start(" much later in the queue", at=MUCH_LATER, if_active="enqueue")
        start(" shortly", thread_ttl_ms=SHORT_MS)
        start(" shortly in the queue", thread_ttl_ms=SHORT_MS, if_active="enqueue")

    # -- a run's life

    def _life(self, name: str, run_id: str) -> None:
        r = self.record(run_id)
        repeated = r.get("nonce", "0.nobody")
        for label, nonce, live in (
            ("", f"0.claim{name}", LIVE_MS), (" far ahead", f"7.claim{name}", LIVE_MS), (" again", repeated, LIVE_MS),
            (" shortly", f"0.claim{name}", SHORT_MS),
        ):  # fmt: skip
            self._add(
                f"{name}{label}",
                lambda store, n=nonce, ttl=live: transitions.claim(
                    store, run_id, nonce=n, owner=f"w{name}", task_id="task", live_ttl_ms=ttl
                ),
            )
        self._add(
            f"{name} by an old release",
            lambda store: transitions.claim(
                store, run_id, nonce="0.old", owner="w0", task_id="task", live_ttl_ms=LIVE_MS
            ),
            tweak={6: "1"},
        )
        self._add(
            f"{name} far later",
            lambda store: transitions.claim(
                store, run_id, nonce="claim", owner="wf", task_id="other", live_ttl_ms=LIVE_MS
            ),
            now=LATE,
        )
        self._owner(name, run_id, repeated)
        self._people(name, run_id, r, repeated)
        self._add(f"{name}", lambda store: transitions.stop(store, run_id, reason=Reason.USER_ABORT))
        self._add(f"{name} for time", lambda store: transitions.stop(store, run_id, reason=Reason.TIMED_OUT))
        self._add(
            f"{name} later", lambda store: transitions.stop(store, run_id, reason=Reason.USER_ABORT), now=LATE
        )
        self._add(f"{name}", lambda store: transitions.published(store, run_id, task_id="task"))

    def _owner(self, name: str, run_id: str, repeated: str) -> None:
        top = self.top(run_id)
        for who, control in self.controls(run_id):
            self._add(
                f"{name}{who}",
                lambda store, c=control: transitions.seal(
                    store,
                    run_id,
                    nonce=f"1.seal{name}",
                    sealer="s",
                    epoch=c.epoch,
                    cause="lost",
                    control=c.nonce,
                ),
            )
            self._finish(f"{name}{who}", control, top=top)
            self._handover(f"{name}{who}", control, top=top)
            self._resync(f"{name}{who}", control)
            self._snapshot(f"{name}{who}", control, top)
            self._checkpoint(f"{name}{who}", control, top)
            self._pause(f"{name}{who}", control, top=top)
            self._inbox(f"{name}{who}", control)
            self._effect(f"{name}{who}", control)
        right = self.control(run_id)
        self._repeats(name, right, repeated, top)
        self._ends(name, right, top)
        self._savings(name, right, top)

    def _repeats(self, name: str, right: transitions.Control, repeated: str, top: Cursor) -> None:
        """Calls whose replies were lost, and calls by a caller whose content is older than the log."""
        old = Cursor(top.epoch, top.seq + 1)
        self._add(
            f"{name} again",
            lambda store: transitions.seal(
                store, right.run_id, nonce=repeated, sealer="s", epoch=right.epoch, cause="lost"
            ),
        )
        former = replace(right, epoch=right.epoch - 1, owner="before")
        self._finish(f"{name} again", former, top=top, nonce=repeated)
        self._handover(f"{name} again", former, top=top, nonce=repeated)
        self._resync(f"{name} again", former, nonce=repeated)
        self._pause(f"{name} again", former, top=top, nonce=repeated)
        self._finish(f"{name} after all", right, top=top, nonce=f"0.after{name}")
        self._finish(f"{name} with old content", right, top=old)
        self._handover(f"{name} with old content", right, top=old)
        self._pause(f"{name} with old content", right, top=old)

    def _ends(self, name: str, right: transitions.Control, top: Cursor) -> None:
        self._finish(f"{name} failing", right, top=top, reason=Reason.ENGINE_ERROR, error=FAILURE)
        self._finish(f"{name} for all to hear", right, top=top, everyone=EVERYONE, error=FAILURE)
        self._finish(f"{name} for all", right, top=top, everyone=EVERYONE)
        self._finish(f"{name} having read one", right, top=top, inputs_read=1)
        self._finish(f"{name} remembering", right, top=top, memory=PUT)
        self._finish(f"{name} forgetting", right, top=top, memory=DELETE)
        self._finish(f"{name} kept long", right, top=top, retention_ms=2 * THREAD_MS)
        self._handover(f"{name} as lost", right, top=top, lost=True, restart=jsontext.dumps(STATE))
        self._handover(f"{name} shortly", right, top=top, live_ttl_ms=SHORT_MS)
        self._resync(f"{name} shortly", right, live_ttl_ms=SHORT_MS)
        self._resync(f"{name} later", right, now=LATE)
        self._pause(f"{name} remembering", right, top=top, memory=PUT, checkpoint=b"saved")
        self._pause(f"{name} forgetting", right, top=top, memory=DELETE, checkpoint=b"saved")
        self._pause(f"{name} for long", right, top=top, window_ms=10 * SETTINGS.approval_window_s * 1000)
        self._pause(f"{name} for something else", right, top=top, action_id="other")

    def _finish(self, label: str, control: transitions.Control, *, top: Cursor, **given: Any) -> None:
        usual: dict[str, Any] = {
            "nonce": f"0.finish{label[0]}", "reason": Reason.COMPLETED, "state": STATE, "error": None,
            "retention_ms": RETENTION_MS, "compact_after_ms": 60_000,
        }  # fmt: skip
        self._add(label, lambda store: transitions.finish(store, control, top=top, **{**usual, **given}))

    def _handover(self, label: str, control: transitions.Control, *, top: Cursor, **given: Any) -> None:
        usual: dict[str, Any] = {
            "nonce": f"0.handover{label[0]}", "resume_as": "run.restarted", "cause": "shutdown",
            "state": jsontext.dumps(STATE), "live_ttl_ms": LIVE_MS,
        }  # fmt: skip
        self._add(label, lambda store: transitions.handover(store, control, top=top, **{**usual, **given}))

    def _resync(self, label: str, control: transitions.Control, **given: Any) -> None:
        usual: dict[str, Any] = {"nonce": f"0.resync{label[0]}", "state": b"{}", "live_ttl_ms": LIVE_MS}
        now = given.pop("now", 0)
        self._add(label, lambda store: transitions.resync(store, control, **{**usual, **given}), now=now)

    def _pause(self, label: str, control: transitions.Control, *, top: Cursor, **given: Any) -> None:
        window_ms, action_id = given.pop("window_ms", WINDOW_MS), given.pop("action_id", "ask")
        action = Action(
            action_id=action_id,
            kind="question",
            questions=(Question(question_id="q", text="?"),),
            expires_ms=EARLY + int(window_ms),
        )
        usual: dict[str, Any] = {
            "nonce": f"0.pause{label[0]}", "spec": spec(control.run_id), "action": action, "checkpoint": None,
            "settings": SETTINGS,
        }  # fmt: skip
        self._add(
            label,
            lambda store: transitions.pause(store, control, top=top, fold=Content(), **{**usual, **given}),
        )

    def _inbox(self, label: str, control: transitions.Control, *, known: int = 0) -> None:
        self._add(label, lambda store: transitions.inbox(store, control, read=1, known=known))

    def _effect(
        self,
        label: str,
        control: transitions.Control,
        *,
        entry: bytes = b"begun",
        limit: str = "10",
        **given: Any,
    ) -> None:
        usual: dict[str, Any] = {"key": "e1", "replace": False, "live_ttl_ms": LIVE_MS}
        self._add(
            label,
            lambda store: transitions.effect(store, control, entry=entry, **{**usual, **given}),
            tweak={7: limit},
        )

    # -- what an owner saves

    def _snapshot(
        self, label: str, control: transitions.Control, cursor: Cursor, live_ttl_ms: int = LIVE_MS
    ) -> None:
        self._add(
            label,
            lambda store: transitions.snapshot(
                store, control, cursor=cursor, state=b"whole", live_ttl_ms=live_ttl_ms
            ),
        )

    def _checkpoint(self, label: str, control: transitions.Control, cursor: Cursor, **given: Any) -> None:
        usual: dict[str, Any] = {
            "state": b"state",
            "fold": jsontext.dumps({**STATE, "title": "then"}),
            "live_ttl_ms": LIVE_MS,
        }
        self._add(
            label, lambda store: transitions.checkpoint(store, control, cursor=cursor, **{**usual, **given})
        )

    def _savings(self, name: str, right: transitions.Control, top: Cursor) -> None:
        beyond, earlier = Cursor(top.epoch, top.seq + 1), Cursor(top.epoch, max(top.seq - 1, 0))
        other, ancient = Cursor(top.epoch + 1, 0), Cursor(max(top.epoch - 1, 1), 9)
        cursors = {
            "beyond the log": beyond,
            "in an epoch to come": other,
            "earlier": earlier,
            "ancient": ancient,
        }
        for where, cursor in cursors.items():
            self._snapshot(f"{name} {where}", right, cursor)
            self._checkpoint(f"{name} {where}", right, cursor)
        self._snapshot(f"{name} shortly", right, top, SHORT_MS)
        self._checkpoint(f"{name} shortly", right, top, live_ttl_ms=SHORT_MS)
        self._checkpoint(f"{name} that is damaged", right, top, fold=b"fo")
        self._checkpoint(f"{name} remembering", right, top, memory=PUT)
        self._checkpoint(f"{name} forgetting", right, top, memory=DELETE)
        self._checkpoint(f"{name} forgetting some", right, top, memory=DELETE_ONE)
        stored = self.database.data.get(keys.run(right.run_id).snapshot, {})
        base = parse(stored.get("cursor", "1-0"))
        length = len(stored.get("state", ""))
        for how, patch in (
            ("patched", Patch(base=base, length=length, at=2)),
            ("patched on another base", Patch(base=Cursor(base.epoch, base.seq + 1), length=length, at=2)),
            ("patched on another length", Patch(base=base, length=length + 1, at=2)),
        ):
            args = (
                right.epoch,
                right.owner,
                top,
                "+",
                LIVE_MS,
                patch.base,
                patch.length,
                patch.at,
                right.nonce,
            )
            k = keys.run(right.run_id)
            self._add(
                f"{name} {how}",
                lambda store, k=k, args=args: store.verb(
                    transitions.SNAPSHOT, [k.record, k.log, k.snapshot], args
                ),
            )
        self._inbox(f"{name} knowing one", right, known=1)
        self._effect(f"{name} that is over", right, entry=b"done", replace=True)
        self._effect(f"{name} that is over, being full", right, entry=b"done", replace=True, limit="1")
        self._effect(f"{name} with other arguments", right, entry=b"else")
        self._effect(f"{name} of another", right, key="e2")
        self._effect(f"{name} of another, being full", right, key="e2", limit="1")
        self._effect(f"{name} shortly", right, key="e3", live_ttl_ms=SHORT_MS)

    # -- people

    def _people(self, name: str, run_id: str, r: Mapping[str, str], repeated: str) -> None:
        def resolve(label: str, *, now: int = 0, **given: Any) -> None:
            usual: dict[str, Any] = {
                "nonce": f"0.resolve{name}", "action_id": r.get("action_id", "ask"),
                "fingerprint": r.get("fingerprint", "print"), "digest": "yes", "decisions": {"q": "yes"},
                "kind": Type.APPROVAL_RESOLVED, "body": {"action_id": "ask"}, "live_ttl_ms": LIVE_MS,
            }  # fmt: skip
            self._add(
                f"{name}{label}",
                lambda store: transitions.resolve(store, run_id, **{**usual, **given}),
                now=now,
            )

        resolve("")
        resolve(" shortly", live_ttl_ms=SHORT_MS)
        resolve(" again", nonce=repeated)
        resolve(" otherwise", digest="no", decisions={"q": "no"}, nonce=f"0.no{name}")
        resolve(" for another action", action_id="yet another")
        resolve(" for another fingerprint", fingerprint="other")
        resolve(" too late", now=LATE, nonce=f"0.late{name}")
        resolve(" at its time", now=EARLY + WINDOW_MS, nonce=f"0.time{name}")
        resolve(" by expiry", now=LATE, kind=Type.APPROVAL_EXPIRED, nonce=f"0.expiry{name}")
        resolve(" by early expiry", kind=Type.APPROVAL_EXPIRED, nonce=f"0.early{name}")
        for label, tweak in (
            ("", {}), (" with one waiting", {4: "1"}), (" with one in all", {5: "1"}),
        ):  # fmt: skip
            for number in (1, 2):
                self._add(
                    f"{name} {number}{label}",
                    lambda store, n=number: transitions.steer(
                        store, run_id, input_id=f"i{n}", text=f"say {n}", by="u"
                    ),
                    tweak=tweak,
                )
        self._add(
            f"{name} 1 otherwise",
            lambda store: transitions.steer(store, run_id, input_id="i1", text="else", by="u"),
        )
        self._add(
            f"{name} 1 later",
            lambda store: transitions.steer(store, run_id, input_id="i1", text="say 1", by="u"),
            now=LATE,
        )

    # -- beside a run's life

    def _beside(self, name: str, run_id: str) -> None:
        k, r = keys.run(run_id), self.record(run_id)
        self._add(f"{name}", lambda store: transitions.compact(store, run_id))
        self._add(
            f"{name} to be archived", lambda store: transitions.compact_all(store, [run_id], keep_due=True)
        )
        for kept in (False, True):
            self._add(f"{name}{' keeping memory' if kept else ''}",
                      lambda store, keep=kept: transitions.forget(store, run_id, keep_memory=keep))  # fmt: skip
        for label, live, thread in (("", LIVE_MS, THREAD_MS), (" shortly", SHORT_MS, SHORT_MS)):
            self._add(f"{name}{label}", lambda store, a=live, b=thread: transitions.promote(
                store, run_id, live_ttl_ms=a, thread_ttl_ms=b))  # fmt: skip
        self._describe(name, descriptions.of_run(run_id), run_id)
        self._release(name, run_id, r)
        self._reads(name, run_id)
        before = r.get("callback", "").encode()
        for label, known, change in (
            ("", before, QUIET_CALLBACK), (" to more", before, CALLBACK), (" unread", b"{}", CALLBACK),
        ):  # fmt: skip
            self._add(f"{name}{label}", lambda store, b=known, c=change: transitions.set_callback(
                store, run_id, before=b, callback=c))  # fmt: skip
        self._callbacks(name, run_id, self.database.data.get(k.callbacks, {}))

    def _describe(self, name: str, target: Sequence[str], run_id: str | None) -> None:
        changes: dict[str, dict[str, Any]] = {
            "title": {"title": "t"}, "labels": {"labels": ["l"]}, "metadata": {"metadata": {"m": 1}},
            "no title": {"title": None}, "no labels": {"labels": None}, "no metadata": {"metadata": None},
        }  # fmt: skip
        for what, change in changes.items():
            self._add(f"{name} {what}", lambda store, c=change: transitions.describe(
                store, target, change=Description(**c)))  # fmt: skip
        if run_id:
            again = (run_id, 2 * THREAD_MS)
            self._add(f"{name} once more", lambda store: transitions.describe(
                store, target, change=Description(title="t2"), again=again))  # fmt: skip

    def _release(self, name: str, run_id: str, r: Mapping[str, str]) -> None:
        nonce, said = r.get("nonce", ""), ("title", "labels", "metadata")
        about = tuple(r.get(part, "").encode() for part in said)
        user = jsontext.loads(r.get("spec", "{}")).get("user_id", "u")
        usual = transitions.Ended(
            run_id=run_id, user_id=user, nonce=nonce, description=(about[0], about[1], about[2])
        )
        others = {
            "": usual, " of another end": replace(usual, nonce="0.else"),
            " with another title": replace(usual, description=(b"x", about[1], about[2])),
            " with other labels": replace(usual, description=(about[0], b"x", about[2])),
            " with other metadata": replace(usual, description=(about[0], about[1], b"x")),
        }  # fmt: skip
        for label, ended in others.items():
            self._add(f"{name}{label}", lambda store, e=ended: transitions.release(store, e, hot_ms=1000))
        self._add(f"{name} slowly", lambda store: transitions.release(store, usual, hot_ms=3 * THREAD_MS))

    def _reads(self, name: str, run_id: str) -> None:
        self._add(name, lambda store: transitions.read(store, run_id))
        self._add(name, lambda store: transitions.dump(store, run_id))
        self._add(f"{name} from the start", lambda store: transitions.page(store, run_id, after=Cursor(0, 0)))
        self._add(f"{name} one", lambda store: transitions.page(store, run_id, after=Cursor(1, 0), count=1))
        self._add(f"{name} none", lambda store: transitions.page(store, run_id, after=Cursor(1, 0), count=0))
        last = Cursor(2**64 - 1, 2**64 - 1)
        self._add(f"{name} after all", lambda store: transitions.page(store, run_id, after=last))
        self._add(f"{name} few bytes", lambda store: transitions.page(store, run_id, after=Cursor(0, 0)),
                  tweak={2: "25"})  # fmt: skip

    def _callbacks(self, name: str, run_id: str, stored: Mapping[str, str]) -> None:
        open_ones = sorted(field for field in stored if field.count(".") == 1 and ":" not in field)
        epoch, _, number = (open_ones[0] if open_ones else "9.1").partition(".")
        for label, delivery in (
            ("", DeliveryId(run_id, int(epoch), int(number))), (" that is not open", DeliveryId(run_id, 99, 1)),
        ):  # fmt: skip
            self._add(f"{name}{label}", lambda store, d=delivery: transitions.note_attempt(store, d))
            self._add(f"{name}{label} in vain", lambda store, d=delivery: transitions.note_attempt(
                store, d, attempts=Attempts(count=1), due_ms=self.now + 5))  # fmt: skip
        for label, targets in (
            ("", ["https://a.example"]), (" to all", ["https://b.example", "https://c.example"]),
        ):  # fmt: skip
            self._add(f"{name}{label}", lambda store, t=targets: transitions.redeliver(
                store, run_id, epoch=int(epoch), spec=b"{}", event=b"{}", targets=t))  # fmt: skip
        self._add(name, lambda store: transitions.drop_callbacks(store, run_id))

    # -- threads

    def _thread(self) -> None:
        self._describe("thread", descriptions.of_thread("default", "t"), None)
        self._add("thread", lambda store: transitions.erase(store, "default", "t"))
        for label, run_ids in (("", ()), (" with named runs", (RUN_IDS["A"], RUN_IDS["C"]))):
            self._add(f"thread{label}", lambda store, r=run_ids: transitions.move(store, TAG, r))
        original = transitions.Original(
            run_input=b"{}", state=STATE, reason=Reason.COMPLETED, error=None, decisions=[], description=Description()
        )  # fmt: skip
        told = replace(
            original, error=FAILURE, decisions=[{"q": 1}], memory=PUT,
            description=Description(title="t", labels=["l"], metadata={"m": 1}),
        )  # fmt: skip
        first, second = (
            spec(run_id, thread_id="fork", created_ms=EARLY + n) for n, run_id in enumerate((FORK, FORK2))
        )
        theirs = spec(FORK2, thread_id="fork", created_ms=EARLY + 1, user_id="v")
        for label, made, what, previous, nonce in (
            ("fork", first, original, "", "0.fork"), ("fork by another", first, original, "", "0.else"),
            ("fork with all", first, told, "", "0.fork"), ("fork second", second, told, FORK, "0.fork"),
            ("fork second as first", second, original, "", "0.fork"),
            ("fork second of another", theirs, original, FORK, "0.fork"),
        ):  # fmt: skip
            self._add(label, lambda store, m=made, w=what, p=previous, n=nonce: transitions.copy(
                store, m, w, nonce=n, previous=p, retention_ms=RETENTION_MS, compact_after_ms=1))  # fmt: skip
        for name, run_id in (("fork", FORK), ("fork second", FORK2)):
            self._release(name, run_id, self.record(run_id))

    # -- what is shared

    def _shared(self) -> None:
        kept = keys.events("default", "u", "paid")
        for number, entry in (("1", b"5 {}"), ("2", b"5 {}"), ("3", b"7 {}"), ("0", b"10 {}")):
            self._add(f"event {number}", lambda store, n=number, e=entry: transitions.keep_event(
                store, kept, event_id=n, entry=e, ttl_ms=LIVE_MS), tweak={3: "2"})  # fmt: skip
        for name in ("A", "B"):
            self._add(f"{name} waits", lambda store, r=RUN_IDS[name]: transitions.enlist(
                store, kept.waiting, run_id=r, ttl_ms=LIVE_MS))  # fmt: skip
        self._add("C shortly", lambda store: transitions.enlist(
            store, kept.waiting, run_id=RUN_IDS["C"], ttl_ms=SHORT_MS))  # fmt: skip
        self._add("child of A", lambda store: transitions.enlist(
            store, keys.run_children(RUN_IDS["A"]), run_id=FORK, ttl_ms=LIVE_MS))  # fmt: skip
        for name, run_id in {**RUN_IDS, "fork": FORK}.items():
            for label, limit, tag, live in (
                ("", 2, "", LIVE_MS), (" replacing", 1, TAG, LIVE_MS), (" alone", 1, "", SHORT_MS),
            ):  # fmt: skip
                self._add(f"{name}{label}", lambda store, r=run_id, n=limit, t=tag, ttl=live: transitions.take_slot(
                    store, tenant="default", user_id="u", run_id=r, limit=n, live_ttl_ms=ttl,
                    replacing_tag=t))  # fmt: skip
        self._due()
        self._admissions()
        self._accounts()
        self._paces()

    def _due(self) -> None:
        for label, now, limit in (
            ("", 0, 10),
            (" later", EARLY + 6000, 10),
            (" later, one", EARLY + 6000, 1),
            (" much later", MUCH_LATER, 10),
        ):
            for kind in ("active", "compact"):
                index = getattr(keys.run(RUN_IDS["A"]), kind)
                self._add(f"{kind}{label}", lambda store, i=index, n=limit: transitions.take_due(
                    store, i, limit=n, hold_ms=1000), now=now)  # fmt: skip

    def _admissions(self) -> None:
        for name, user, share, had_turn in (
            ("A", "u", 1.0, False),
            ("B", "u", 1.0, False),
            ("C", "v", 0.5, False),
            ("B again", "u", 1.0, True),
        ):
            wanted = transitions.Wanted(
                run_id=RUN_IDS[name.split()[0]], user=user, share=share, had_turn=had_turn
            )
            for label, window, over in (
                (" of one", 1, ()),
                (" of two", 2, ()),
                (" after A", 1, (RUN_IDS["A"],)),
            ):
                self._add(f"{name}{label}", lambda store, w=wanted, n=window, o=over: transitions.admit(
                    store, "q", window=n, live_ttl_ms=LIVE_MS, wanted=w, over=o))  # fmt: skip
        for label, over in (("", ()), (" after all", tuple(RUN_IDS.values()))):
            self._add(f"nobody{label}", lambda store, o=over: transitions.admit(
                store, "q", window=1, live_ttl_ms=LIVE_MS, over=o))  # fmt: skip

    def _accounts(self) -> None:
        account = "ms:{s:account}"
        for call_id, nanos, tokens, limits, ttl in (
            ("c1", 5, 7, (None, None), LIVE_MS), ("c2", 5, 7, (8, None), LIVE_MS), ("c2 tokens", 5, 7, (None, 12), LIVE_MS),
            ("c3", 1, 1, (100, 100), SHORT_MS), ("c4", 5, 7, (10, 14), LIVE_MS),
        ):  # fmt: skip
            self._add(call_id, lambda store, c=call_id, n=nanos, t=tokens, most=limits, ttl=ttl: transitions.reserve(
                store, account, call_id=c, day="d", nanos=n, tokens=t, limit_nanos=most[0], limit_tokens=most[1],
                ttl_ms=ttl))  # fmt: skip
        for call_id, cost in (("c1", 3), ("c1 as reserved", None), ("c9", 1)):
            self._add(call_id, lambda store, c=call_id, n=cost: spending.settle(
                store, account, call_id=c.split()[0], nanos=n, tokens=n, sums={"calls": 1}))  # fmt: skip

    def _paces(self) -> None:
        free, few = transitions.Pace(key="ms:{p}:pace"), transitions.Pace(key="ms:{p}:pace", requests=10)
        both, tokens_only = replace(few, tokens=100), replace(free, tokens=100)
        for label, pace, tokens, known, now in (
            ("freely", free, 7, "", 0), ("as told", both, 7, "0", 0), ("of few", few, 7, "", 0),
            ("of both", both, 7, "", 0), ("a little", both, 1, "", 0), ("too much", both, 999, "", 0),
            ("of both later", both, 7, "", EARLY + 6000), ("freely later", free, 7, "", EARLY + 6000),
            ("as told once more", both, 7, "1", 0), ("of tokens", tokens_only, 7, "", 0),
            ("freely soon", free, 7, "", SOON),
        ):  # fmt: skip
            self._add(label, lambda store, p=pace, t=tokens, k=known: transitions.draw(
                store, p, tokens=t, known=k), now=now)  # fmt: skip
        for label, pace, known, requests, tokens, now in (
            ("not made", both, "0", -1, -7, 0), ("used more", both, "0", 0, 5, 0), ("used much more", both, "0", 3, 999, 0),
            ("not made of few", few, "0", -1, -7, 0), ("of another closure", both, "1", -1, -7, 0),
            ("nothing soon", both, "0", 0, 0, SOON), ("used more soon", both, "0", 0, 5, SOON),
            ("not made soon", both, "0", -1, -7, SOON),
        ):  # fmt: skip
            self._add(label, lambda store, p=pace, k=known, r=requests, t=tokens: transitions.correct(
                store, p, known=k, requests=r, tokens=t), now=now)  # fmt: skip
        for label, for_ms in (
            ("briefly", 1000),
            ("as briefly", 1200),
            ("for longer", 5000),
            ("for long", 100_000),
        ):
            self._add(label, lambda store, ms=for_ms: transitions.shut(store, free, for_ms=ms))
