"""What each verb answers and leaves, in Python: the specification that the shipped Lua is held against.

A verb is a function of the state before and of its arguments: `Sheet` is the state, which it changes, and what it
returns is the answer. It says what must hold in the protocol's words, not how Lua does it; nothing but the names of
fields is shared with the scripts. Verbs about runs are here, those beside runs in `reference_beside`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from model.redis_in_process import Database, Stream, stream_id

Answer = list[Any]
UNFINISHED: Final = frozenset({"queued", "running", "requires_action"})
CALLBACKS_KEPT_MS: Final = 8 * 24 * 3600 * 1000


class Sheet:
    """The state that a verb is called in, by the names that verbs have for its parts, and changed by it."""

    def __init__(self, database: Database, keys: Sequence[str], args: Sequence[str]) -> None:
        self.database = database.copy()
        self.keys, self.args = list(keys), list(args)
        self.do = self.database.call

    # -- what is there

    def hash(self, key: str) -> dict[str, str]:
        return self.database.data.get(key, {})

    def there(self, key: str) -> bool:
        return key in self.database.data

    def members(self, key: str) -> list[str]:
        """A sorted set's members, the lowest first."""
        return self.do("ZRANGE", key, 0, -1)

    def queue(self, key: str) -> tuple[str, ...]:
        return self.database.data.get(key, ())

    def entries(self, log: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return self.database.data.get(log, Stream()).entries

    def top(self, log: str) -> str:
        entries = self.entries(log)
        return entries[-1][0] if entries else "0-0"

    def lifetime(self, key: str) -> int:
        return self.do("PTTL", key)

    # -- what verbs do

    def put(self, key: str, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            self.do("HSET", key, name, str(value))

    def drop(self, key: str, *names: str) -> None:
        self.do("HDEL", key, *names)

    def live(self, key: str, ttl: str | int) -> None:
        """A key that is there lives at least that long from now on."""
        if self.there(key) and self.lifetime(key) < int(ttl):
            self.do("PEXPIRE", key, ttl)

    def live_exactly(self, key: str, ttl: str | int) -> None:
        self.do("PEXPIRE", key, ttl)

    def open_epoch(self, record: str, log: str, nonce: str, kind: str, body: str) -> int:
        """The next epoch is above the record's and the log's, by what the nonce draws; its entry names the top."""
        top = self.top(log)
        drawn = re.match(r"(\d+)\.", nonce)
        epoch = max(int(self.hash(record)["epoch"]), stream_id(top)[0]) + 1 + int(drawn[1] if drawn else 0)
        self.control_entry(log, epoch, top, kind, body)
        return epoch

    def control_entry(self, log: str, epoch: int, prev: str, kind: str, body: str) -> None:
        members = json.loads(body)
        rest = body[1:] if not members else "," + body[1:]
        self.do("XADD", log, f"{epoch}-0", kind, f'{{"prev":"{prev}"{rest}')

    def look(self, index: str, run_id: str, at: str) -> None:
        """A sweeper looks at the run at that time, or before."""
        self.do("ZADD", index, "LT", at, run_id)

    def controls(self, record: str, epoch: str, owner: str, control: str) -> bool:
        """All of epoch, owner and nonce are the record's; a caller of another release knows no nonce."""
        r = self.hash(record)
        return (r["epoch"], r.get("owner", "")) == (epoch, owner) and control in {"", r.get("nonce", "")}

    def refusal(self, record: str, epoch: str, owner: str, control: str) -> Answer | None:
        """Why a caller who must own the run does not: it is gone, does not run, or is another's."""
        r = self.hash(record)
        if not r:
            return ["gone"]
        if r["status"] != "running" or not self.controls(record, epoch, owner, control):
            return ["refused", r["status"], r["epoch"]]
        return None

    def record_beside(self, thread: str, run_id: str) -> str:
        return f"{thread.removesuffix('thread')}{run_id.partition('_')[2]}:record"

    def status_beside(self, thread: str, run_id: str) -> str | None:
        return self.hash(self.record_beside(thread, run_id)).get("status")

    def memory_beside(self, thread: str, engine: str) -> str:
        return f"{thread.removesuffix('thread')}memory:{engine}"

    def engines(self, thread: str) -> list[str]:
        """The engines that keep something on a thread."""
        return [name.removeprefix("memory:") for name in self.hash(thread) if name.startswith("memory:")]

    def remember(self, memory: str, thread: str, changes: Sequence[str], record: str) -> None:
        """Puts and deletions take effect; the thread says who wrote last, as long as there is a memory."""
        engine, size, ttl, puts, *rest = changes
        if not engine:
            return
        pairs, deleted = rest[: 2 * int(puts)], rest[2 * int(puts) :]
        self.put(memory, dict(zip(pairs[::2], pairs[1::2], strict=True)))
        if deleted:
            self.drop(memory, *deleted)
        if not self.there(memory):
            self.drop(thread, f"memory:{engine}", f"wrote:{engine}")
            return
        self.put(thread, {f"memory:{engine}": size, f"wrote:{engine}": record.split(":")[-2]})
        self.live(memory, ttl)
        self.live(thread, ttl)

    def hand_on(self, thread: str, queue: str, now: str) -> str | None:
        """The thread goes to the first of its queue that still waits; its wait for a worker begins now."""
        while (candidate := self.do("LPOP", queue)) is not None:
            if self.status_beside(thread, candidate) == "queued":
                self.put(self.record_beside(thread, candidate), {"waiting": "worker", "queued": now})
                self.put(thread, {"active": candidate})
                return candidate
        self.drop(thread, "active")
        return None

    def rewrite(self, log: str) -> None:
        """A log that was written anew keeps its entries and its life; nothing to see."""
        del log

    def inputs_after(self, record: str, known: str) -> list[str]:
        r = self.hash(record)
        return [r[f"input:{n}"] for n in range(int(known) + 1, int(r.get("inputs", "0")) + 1)]

    def call_back(
        self,
        keys: tuple[str, str],
        run: tuple[str, str],
        epoch: int,
        now: str,
        event: str,
        *lists: Sequence[str],
    ) -> int:
        """One delivery for each target, due now; the spec is kept beside them."""
        (callbacks, due), (record, run_id) = keys, run
        targets = list(dict.fromkeys(target for some in lists for target in some))
        for number, target in enumerate(targets, 1):
            self.put(callbacks, {f"{epoch}.{number}": target})
            self.do("ZADD", due, now, f"{run_id}.{epoch}.{number}")
        if targets:
            self.put(callbacks, {str(epoch): event, "spec": self.hash(record).get("spec", "")})
            self.live(callbacks, CALLBACKS_KEPT_MS)
        return len(targets)


def targets_of(text: str | None) -> dict[str, Any]:
    """Whom a record's `callback` names: nobody, if it is damaged."""
    try:
        found = json.loads(text or "")
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    return {"to": found.get("to", []), "all": found.get("all", []), "pauses": found.get("pauses") is True}


# -- a run's life


def start(s: Sheet) -> Answer:  # noqa: PLR0911 - a verb refuses for many reasons
    record, log, thread, runs, queue, idem, active, recent = s.keys
    (now, nonce, run_id, spec, run_input, body, live, thread_live, if_active, digest, idem_live, limit, version,
     private, look_at, stop_look_at, callback) = s.args  # fmt: skip
    if mine := s.hash(record):
        if mine["n0"] != nonce:
            return ["exists"]
        return ["started", "thread" if mine["behind"] else "worker", mine["behind"], ""]
    if digest and s.there(idem):
        first, known = s.do("GET", idem).split()
        return ["replayed" if known == digest else "reused", first]
    held = s.hash(thread)
    holder = held.get("active")
    if private and (verdict := _whose(s, held, holder, json.loads(spec)["user_id"], private)):
        return [verdict]
    if holder and s.status_beside(thread, holder) not in UNFINISHED:
        holder = None
    if holder and if_active == "reject":
        return ["busy", holder]
    if holder and len(s.queue(queue)) >= int(limit):
        return ["queue_full", holder]
    s.control_entry(log, 1, "0-0", "run.created", body)
    s.put(record, {
        "n0": nonce, "status": "queued", "waiting": "thread" if holder else "worker", "epoch": 1, "spec": spec,
        "input": run_input, "behind": holder or "", "if_active": if_active, "v": version,
        **({"callback": callback} if callback else {}),
    })  # fmt: skip
    s.live_exactly(record, live)
    s.live_exactly(log, live)
    superseded = ""
    if holder is None:
        s.put(thread, {"active": run_id})
    elif if_active == "replace":
        superseded = _replace(s, holder, now, stop_look_at)
        s.do("LPUSH", queue, run_id)
    else:
        s.do("RPUSH", queue, run_id)
    s.do("ZADD", runs, now, run_id)
    s.do("ZADD", active, look_at, run_id)
    s.do("ZADD", recent, now, run_id)
    for old in s.do("ZRANGEBYSCORE", runs, "-inf", int(now) - int(thread_live), "LIMIT", 0, 10):
        if not s.there(s.record_beside(thread, old)):
            s.do("ZREM", runs, old)
    s.live(thread, thread_live)
    s.live(runs, thread_live)
    if holder:
        s.live(queue, thread_live)
    if digest:
        s.do("SET", idem, f"{run_id} {digest}", "PX", idem_live)
        s.put(record, {"idem": idem})
    return ["started", "thread" if holder else "worker", holder or "", superseded]


def _whose(s: Sheet, held: dict[str, str], holder: str | None, me: str, private: str) -> str | None:
    """A private thread is another's by its holder's, its newest run's or, without runs, its last user."""
    thread, runs = s.keys[2], s.keys[3]

    def user_of(run_id: str | None) -> str | None:
        spec = s.hash(s.record_beside(thread, run_id)).get("spec") if run_id else None
        return json.loads(spec)["user_id"] if spec else None

    newest = s.members(runs)[-1:]
    by_holder, by_newest = user_of(holder), user_of(newest[0] if newest else None)
    known = [user for user in (by_holder, by_newest) if user]
    if not by_newest and held.get("user"):
        known.append(held["user"])
    if any(user != me for user in known):
        return "foreign"
    if private == "archived" and not (known or held.get("user")):
        return "unknown"
    return None


def _replace(s: Sheet, holder: str, now: str, look_at: str) -> str:
    """The holder is to stop, and so is a replacement that waits first; who is asked already, is asked once."""
    _, _, thread, _, queue, _, active, _ = s.keys
    first = s.queue(queue)[:1]
    superseded = [one for one in first if s.hash(s.record_beside(thread, one)).get("if_active") == "replace"]
    for one in (holder, *superseded):
        record = s.record_beside(thread, one)
        if "stop_reason" not in s.hash(record):
            s.put(record, {"stop_reason": "replaced", "stop_ms": now})
        s.look(active, one, look_at)
    return superseded[0] if superseded else ""


def claim(s: Sheet) -> Answer:
    record, log, thread, runs, queue, snapshot, checkpoint = s.keys
    now, nonce, owner, task, live, body, understood = s.args
    r = s.hash(record)
    if not r:
        return ["gone"]
    if r.get("nonce") == nonce:
        return _claimed(s, record)
    if int(r.get("v", "1")) > int(understood):
        return ["newer", r["v"]]
    if r["status"] != "queued" or r.get("waiting") != "worker":
        return ["refused", r["status"], r["epoch"]]
    if "stop_reason" in r:
        return ["stopping", r["stop_reason"], r["epoch"]]
    segment, restart = int(r.get("segment", "0")) + 1, r.get("restart")
    opening = f'{{"segment":{segment},' + (restart[1:-1] + "," if restart else "") + body[1:]
    epoch = s.open_epoch(record, log, nonce, r.get("resume_as", "run.started"), opening)
    s.put(record, {
        "status": "running", "epoch": epoch, "owner": owner, "task": task, "nonce": nonce, "segment": segment,
        "last_task": task, "started": r.get("started", now), "first_task": r.get("first_task", task),
    })  # fmt: skip
    s.drop(record, "waiting", "published", "paused", "restart")
    if restart:
        s.do("HINCRBY", record, "restarts", 1)
    if "paused" in r:
        s.do("HINCRBY", record, "idle", max(int(now) - int(r["paused"]), 0))
    state = s.hash(snapshot).get("state")
    if state and s.there(checkpoint) and "fold" not in s.hash(checkpoint):
        s.put(checkpoint, {"fold": state})
    for key in (record, log, thread, runs, queue):
        s.live(key, live)
    return _claimed(s, record)


def _claimed(s: Sheet, record: str) -> Answer:
    r = s.hash(record)
    return [
        "claimed", r["epoch"], r.get("segment"), r["spec"], r["input"], r.get("started"), r.get("resume_as", ""),
        r.get("decisions", ""), r.get("idle", "0"), r.get("inputs", "0"),
    ]  # fmt: skip


def seal(s: Sheet) -> Answer:
    record, log = s.keys
    now, nonce, sealer, expected, body, control = s.args
    r = s.hash(record)
    if r and r.get("nonce") == nonce:
        return ["sealed", r["epoch"]]
    if refusal := s.refusal(record, expected, r.get("owner", ""), control):
        return refusal
    was_there = s.there(log)
    epoch = s.open_epoch(record, log, nonce, "run.sealed", body)
    if not was_there or s.lifetime(log) < 0:
        s.live_exactly(log, max(s.lifetime(record), 1))
    s.put(record, {"epoch": epoch, "owner": sealer, "nonce": nonce, "sealed": now})
    return ["sealed", epoch]


def finish(s: Sheet) -> Answer:
    (
        record,
        log,
        snapshot,
        checkpoint,
        thread,
        queue,
        runs,
        active,
        compact,
        memory,
        effects,
        callbacks,
        due,
    ) = s.keys
    (now, nonce, run_id, epoch, owner, expected, status, reason, body, err, retention, read, control, compact_at,
     look_at, everyone, *changes) = s.args  # fmt: skip
    r = s.hash(record)
    if not r:
        return ["gone"]
    if r.get("nonce") == nonce:
        return ["finished", r["epoch"], r.get("next_run", "")]
    if r["status"] not in UNFINISHED:
        return ["already", r["status"], r["reason"]]
    if not s.controls(record, epoch, owner, control):
        return ["refused", r["status"], r["epoch"]]
    if s.top(log) != expected:
        return ["moved", s.top(log)]
    if unread := s.inputs_after(record, read):
        body = f'{body[:-1]},"unread":[{",".join(unread)}]}}'
    last = s.open_epoch(record, log, nonce, "run.finished", body)
    s.put(record, {"status": status, "reason": reason, "epoch": last, "finished": now, "nonce": nonce})
    if err:
        s.put(record, {"error": err})
    s.drop(record, "waiting", "published", "sealed", "action", "fingerprint", "expires", "resume_as", "restart",
           "inputs_read", "if_active", *(f"input:{n}" for n in range(1, int(r.get("inputs", "0")) + 1)))  # fmt: skip
    s.do("DEL", snapshot, checkpoint, effects)
    s.live_exactly(record, retention)
    s.live_exactly(log, retention)
    s.live(runs, retention)
    s.remember(memory, thread, changes, record)
    s.do("ZREM", active, run_id)
    s.do("ZADD", compact, compact_at, run_id)
    next_run = None
    if s.hash(thread).get("active") == run_id:
        next_run = s.hand_on(thread, queue, now)
    else:
        s.do("LREM", queue, 0, run_id)
    if next_run:
        s.put(record, {"next_run": next_run})
        s.look(active, next_run, look_at)
    own = targets_of(r.get("callback"))
    event = f'{{"type":"run.ended","at":{now},"status":"{status}","reason":"{reason}"' + (
        f',"error":{err}}}' if err else "}"
    )
    told = s.call_back(
        (callbacks, due),
        (record, run_id),
        last,
        now,
        event,
        own["to"],
        own["all"],
        json.loads(everyone or "[]"),
    )
    return ["finished", last, next_run or "", told]


def handover(s: Sheet) -> Answer:
    record, log, snapshot, active = s.keys
    (now, nonce, epoch, owner, expected, resume_as, body, state, live, lost, restart, control, run_id,
     look_at) = s.args  # fmt: skip
    r = s.hash(record)
    if r and r.get("nonce") == nonce:
        return ["queued", r["epoch"]]
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    if s.top(log) != expected:
        return ["moved", s.top(log)]
    last = s.open_epoch(record, log, nonce, "run.queued", body)
    s.put(record, {
        "status": "queued", "waiting": "worker", "epoch": last, "nonce": nonce, "resume_as": resume_as, "queued": now,
        **({"restart": restart} if restart else {}),
    })  # fmt: skip
    s.drop(record, "owner", "published", "sealed", "task")
    s.do("HINCRBY", record, "attempts", lost)
    s.put(snapshot, {"cursor": f"{last}-0", "state": state})
    for key in (snapshot, record, log):
        s.live(key, live)
    s.look(active, run_id, look_at)
    return ["queued", last]


def stop(s: Sheet) -> Answer:
    record, active, children = s.keys
    now, reason, run_id, look_at = s.args
    r = s.hash(record)
    if not r:
        return ["gone"]
    if r["status"] not in UNFINISHED:
        return ["already", r["status"], r["reason"]]
    if "stop_reason" not in r:
        s.put(record, {"stop_reason": reason, "stop_ms": now})
    s.look(active, run_id, look_at)
    r = s.hash(record)
    return ["intended", r["status"], r["epoch"], r.get("owner", ""), r.get("task", ""), r["stop_reason"],
            s.do("SCARD", children)]  # fmt: skip


def published(s: Sheet) -> Answer:
    (record,) = s.keys
    now, task = s.args
    if s.hash(record).get("status") != "queued":
        return ["refused"]
    s.put(record, {"published": now, "task": task})
    s.do("HINCRBY", record, "publishes", 1)
    return ["noted"]


# -- the log, as its owner repairs and shortens it


def resync(s: Sheet) -> Answer:
    record, log, snapshot = s.keys
    _, nonce, epoch, owner, state, live, control = s.args
    r = s.hash(record)
    if r and r.get("nonce") == nonce:
        return ["resynced", r["epoch"]]
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    last = s.open_epoch(record, log, nonce, "resync", state)
    s.put(record, {"epoch": last, "nonce": nonce})
    s.do("HINCRBY", record, "restarts", 1)
    s.put(snapshot, {"cursor": f"{last}-0", "state": state})
    s.live(snapshot, live)
    s.live(log, live)
    return ["resynced", last]


def snapshot(s: Sheet) -> Answer:
    record, log, stored = s.keys
    epoch, owner, cursor, state, live, base, length, at, control = s.args
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    known = s.hash(stored)
    previous = known.get("cursor")
    if previous == cursor:
        return ["stored"]
    if not _may_cover(s, log, cursor, previous):
        return ["stale", previous or ""]
    if base:
        if previous != base or len(known["state"]) != int(length):
            return ["stale", previous or ""]
        state = known["state"][: int(at)] + state + known["state"][int(at) :]
    s.put(stored, {"cursor": cursor, "state": state})
    s.live(stored, live)
    if previous:
        s.do("XTRIM", log, "MINID", "=", previous)
    return ["stored"]


def _may_cover(s: Sheet, log: str, cursor: str, previous: str | None) -> bool:
    """What is stored covers the log up to a cursor that it has, and never goes back."""
    is_forward = previous is None or stream_id(previous) <= stream_id(cursor)
    return is_forward and stream_id(cursor) <= stream_id(s.top(log))


def checkpoint(s: Sheet) -> Answer:
    record, log, stored, thread, memory = s.keys
    epoch, owner, cursor, state, live, fold, control, *changes = s.args
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    previous = s.hash(stored).get("cursor")
    if not _may_cover(s, log, cursor, previous):
        return ["stale", previous or ""]
    s.put(stored, {"v": 1, "cursor": cursor, "state": state, "fold": fold})
    s.live(stored, live)
    s.remember(memory, thread, changes, record)
    return ["stored"]


def compact(s: Sheet) -> Answer:
    record, log, _, index = s.keys
    run_id, keep_due = s.args
    if keep_due != "1":
        s.do("ZREM", index, run_id)
    status = s.hash(record).get("status")
    if status is None:
        return ["gone"]
    if status in UNFINISHED:
        return ["refused", status]
    entries = s.entries(log)
    if len(entries) > 1:
        s.database.data[log] = Stream(entries[-1:], stream_id(entries[-1][0]))
        s.database.expires[log] = max(s.database.expires.get(log, 0), s.database.now + 1)
    return ["compacted"]


# -- people: pauses, decisions, inputs


def pause(s: Sheet) -> Answer:
    (record, log, stored, checkpointed, thread, runs, queue, _, active, memory, effects, callbacks, due) = (
        s.keys
    )
    (now, nonce, epoch, owner, expected, action_id, action, fingerprint, body, state, expires, live, thread_live,
     has_checkpoint, bytes_, control, run_id, look_at, *changes) = s.args  # fmt: skip
    r = s.hash(record)
    if r and r.get("nonce") == nonce:
        return ["paused", r["epoch"]]
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    if "stop_reason" in r:
        return ["stopping", r["stop_reason"], r["epoch"]]
    top = s.top(log)
    if top != expected:
        return ["moved", top]
    last = s.open_epoch(record, log, nonce, "approval.required", body)
    s.put(record, {
        "status": "requires_action", "epoch": last, "nonce": nonce, "action_id": action_id, "action": action,
        "fingerprint": fingerprint, "expires": expires, "paused": now,
    })  # fmt: skip
    s.drop(record, "owner", "task", "published", "sealed", "waiting")
    s.put(stored, {"cursor": f"{last}-0", "state": state})
    s.put(checkpointed, {"v": 1, "cursor": top, **({"state": bytes_} if has_checkpoint == "1" else {})})
    s.drop(checkpointed, "fold")
    s.remember(memory, thread, changes, record)
    for key in (effects, record, log, stored, checkpointed):
        s.live(key, live)
    for key in (thread, runs, queue, *(s.memory_beside(thread, engine) for engine in s.engines(thread))):
        s.live(key, thread_live)
    s.do("ZADD", active, look_at, run_id)
    s.rewrite(log)
    own = targets_of(r.get("callback"))
    event = f'{{"type":"run.requires_action","at":{now},"action":{action}}}'
    told = s.call_back(
        (callbacks, due), (record, run_id), last, now, event, own["to"] if own["pauses"] else []
    )
    return ["paused", last, told]


def resolve(s: Sheet) -> Answer:  # noqa: PLR0911 - a verb refuses for many reasons
    record, log, stored, checkpointed, active, effects = s.keys
    (now, nonce, action_id, fingerprint, digest, decisions, kind, body, live, at_expiry, run_id, look_at) = (
        s.args
    )
    r = s.hash(record)
    if not r:
        return ["gone"]
    if r.get("nonce") == nonce:
        return ["resolved", r["epoch"]]
    if known := r.get(f"resolved:{action_id}"):
        return ["repeated" if known == digest else "conflict"]
    if r["status"] != "requires_action":
        return ["refused", r["status"], r["epoch"]]
    if (r["action_id"], r["fingerprint"]) != (action_id, fingerprint):
        return ["stale", r["action_id"]]
    if "stop_reason" in r:
        return ["stopping", r["stop_reason"], r["epoch"]]
    is_over = int(now) >= int(r["expires"])
    if is_over != (at_expiry == "1"):
        return ["expired", r["epoch"]]
    epoch = s.open_epoch(record, log, nonce, kind, body)
    made = r["decisions"][:-1] + "," if "decisions" in r else "["
    s.put(record, {
        "status": "queued", "waiting": "worker", "epoch": epoch, "nonce": nonce, "queued": now,
        "resume_as": "run.resumed", "decisions": f"{made}{decisions}]", f"resolved:{action_id}": digest,
    })  # fmt: skip
    s.drop(record, "action", "expires", "fingerprint", "publishes")
    for key in (record, log, stored, checkpointed, effects):
        s.live(key, live)
    s.look(active, run_id, look_at)
    return ["resolved", epoch]


def steer(s: Sheet) -> Answer:  # noqa: PLR0911 - a verb refuses for many reasons
    record, active = s.keys
    now, input_id, digest, entry, waiting_limit, limit, run_id, look_at = s.args
    r = s.hash(record)
    if not r:
        return ["gone"]
    status = r["status"]
    owner = r.get("owner", "") if status == "running" else ""
    if known := r.get(f"input_id:{input_id}"):
        number, first, at = known.split()
        if first != digest:
            return ["reused"]
        if status in UNFINISHED:
            s.look(active, run_id, look_at)
        return ["accepted", number, at, owner]
    if status == "requires_action" and "stop_reason" not in r:
        return ["paused"]
    if status not in UNFINISHED or "stop_reason" in r:
        return ["inactive", status]
    number = int(r.get("inputs", "0")) + 1
    if number > int(limit) or number - int(r.get("inputs_read", "0")) > int(waiting_limit):
        return ["full"]
    s.put(
        record,
        {"inputs": number, f"input:{number}": entry, f"input_id:{input_id}": f"{number} {digest} {now}"},
    )
    s.look(active, run_id, look_at)
    return ["accepted", number, now, owner]


def inbox(s: Sheet) -> Answer:
    (record,) = s.keys
    epoch, owner, read, known, control = s.args
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    entries = s.inputs_after(record, known)
    s.put(record, {"inputs_read": read})
    return ["inputs", entries]


def effect(s: Sheet) -> Answer:
    record, effects = s.keys
    epoch, owner, control, key, entry, replace, live, limit = s.args
    if refusal := s.refusal(record, epoch, owner, control):
        return refusal
    known = s.hash(effects).get(key)
    if known == entry:
        return ["noted"]
    if known is not None and replace != "1":
        return ["known", known]
    if known is None and len(s.hash(effects)) >= int(limit):
        return ["full"]
    s.put(effects, {key: entry})
    s.live(effects, live)
    return ["noted"]


RUNS: Final[Mapping[str, Callable[[Sheet], Answer]]] = {
    one.__name__: one
    for one in (
        start, claim, seal, finish, handover, stop, published, resync, snapshot, checkpoint, compact, pause, resolve,
        steer, inbox, effect,
    )
}  # fmt: skip
