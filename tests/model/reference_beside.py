"""What verbs beside a run's life answer and leave (see `reference`): threads, reads, callbacks, quotas, accounts, paces."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Final

from model.reference import CALLBACKS_KEPT_MS, RUNS, UNFINISHED, Answer, Sheet

# -- threads and what is kept of a run that is over


def promote(s: Sheet) -> Answer:
    record, log, thread, queue, active = s.keys
    now, run_id, live, thread_live, look_at = s.args
    r = s.hash(record)
    if not r:
        return ["gone"]
    if (r["status"], r.get("waiting")) != ("queued", "thread"):
        return ["refused", r["status"]]
    s.live(record, live)
    s.live(log, live)
    s.live(queue, thread_live)
    holder = s.hash(thread).get("active")
    if holder and s.status_beside(thread, holder) in UNFINISHED:
        s.live(thread, thread_live)
        return ["held", holder]
    next_run = s.hand_on(thread, queue, now)
    if next_run is None:
        s.put(record, {"waiting": "worker", "queued": now})
        s.put(thread, {"active": run_id})
        next_run = run_id
    s.live(thread, thread_live)
    s.look(active, next_run, look_at)
    return ["promoted", next_run]


def copy(s: Sheet) -> Answer:
    record, log, thread, runs, recent, compact, memory = s.keys
    (now, nonce, run_id, spec, run_input, body, status, reason, err, decisions, title, labels, metadata, retention,
     compact_at, version, previous, *changes) = s.args  # fmt: skip
    if mine := s.hash(record):
        return ["copied" if mine["n0"] == nonce else "taken"]
    made = json.loads(spec)
    newest, user = s.members(runs)[-1:], s.hash(thread).get("user")
    if (newest and newest != [previous]) or (user and user != made["user_id"]):
        return ["taken"]
    s.control_entry(log, 2, "1-0", "run.finished", body)
    said = {"error": err, "decisions": decisions, "title": title, "labels": labels, "metadata": metadata}
    s.put(record, {
        "n0": nonce, "nonce": nonce, "status": status, "reason": reason, "epoch": 2, "spec": spec,
        "input": run_input, "behind": "", "v": version, "started": now, "finished": now,
        **{name: value for name, value in said.items() if value},
    })  # fmt: skip
    s.live_exactly(record, retention)
    s.live_exactly(log, retention)
    for index in (runs, recent):
        s.do("ZADD", index, made["created_ms"], run_id)
    s.do("ZADD", compact, compact_at, run_id)
    s.live(runs, retention)
    s.remember(memory, thread, changes, record)
    return ["copied"]


def describe(s: Sheet) -> Answer:
    target, must_be, *beside = s.keys
    *changes, run_id, now, keep = s.args
    if not s.there(must_be):
        return ["gone"]
    for name, change in zip(("title", "labels", "metadata"), changes, strict=True):
        if change == "null":
            s.drop(target, name)
        elif change:
            s.put(target, {name: change})
    if s.there(target):
        s.live(target, s.lifetime(must_be))
    if run_id and s.hash(target).get("status") not in UNFINISHED:
        log, compact = beside
        s.live(target, keep)
        s.live(log, keep)
        s.do("ZADD", compact, now, run_id)
    return ["described", *(s.hash(target).get(name, "") for name in ("title", "labels", "metadata"))]


def forget(s: Sheet) -> Answer:
    record, log, snapshot, checkpoint, thread, runs, queue, active, recent, compact, effects = s.keys
    run_id, keep = s.args
    r = s.hash(record)
    if r.get("status") in UNFINISHED:
        return ["refused", r["status"]]
    s.do("DEL", record, log, snapshot, checkpoint, effects, *([r["idem"]] if "idem" in r else []))
    s.do("LREM", queue, 0, run_id)
    for index in (runs, active, recent, compact):
        s.do("ZREM", index, run_id)
    if s.hash(thread).get("active") == run_id:
        s.drop(thread, "active")
    _forget_thread(s, thread, runs, queue, keep_memory=keep == "1")
    return ["forgotten"]


def erase(s: Sheet) -> Answer:
    _forget_thread(s, *s.keys, keep_memory=False)
    return ["erased"]


def _forget_thread(s: Sheet, thread: str, runs: str, queue: str, *, keep_memory: bool) -> None:
    """A thread without runs has nothing of its own, but for what an archive's runs may go on with."""
    if s.members(runs):
        return
    s.do("DEL", queue)
    if not keep_memory:
        s.do("DEL", thread, *(s.memory_beside(thread, engine) for engine in s.engines(thread)))


def release(s: Sheet) -> Answer:
    record, log, thread, runs, recent, compact = s.keys
    run_id, nonce, title, labels, metadata, hot, user, owner_ms = s.args
    r = s.hash(record)
    about = tuple(r.get(name, "") for name in ("title", "labels", "metadata"))
    if r and (r["status"] in UNFINISHED or r.get("nonce", "") != nonce or about != (title, labels, metadata)):
        return ["changed"]
    for key in (record, log):
        if s.lifetime(key) > int(hot):
            s.live_exactly(key, hot)
    for index in (runs, recent, compact):
        s.do("ZREM", index, run_id)
    if not s.members(runs):
        s.put(thread, {"user": user})
        if not s.engines(thread):
            s.live_exactly(thread, owner_ms)
    return ["released"]


def move(s: Sheet) -> Answer:
    old_runs, new_runs = s.keys
    old, new, old_indexes, new_indexes, named = s.args
    runs = list(dict.fromkeys((*s.members(old_runs), *named.split())))
    parts = {run_id: run_id.partition("_")[2] for run_id in runs}
    if any(s.hash(f"{old}:{own}:record").get("status") in UNFINISHED for own in parts.values()):
        return ["held"]

    def rename(suffix: str) -> None:
        if s.there(old + suffix):
            s.do("RENAME", old + suffix, new + suffix)

    for run_id, own in parts.items():
        for kind in ("record", "log", "snapshot", "checkpoint"):
            rename(f":{own}:{kind}")
        record = f"{new}:{own}:record"
        idem = s.hash(record).get("idem", "")
        if idem.startswith(old):
            rename(idem.removeprefix(old))
            s.put(record, {"idem": new + idem.removeprefix(old)})
        for kind in ("active", "recent", "compact"):
            if (score := s.do("ZSCORE", f"{old_indexes}:{kind}", run_id)) is not None:
                s.do("ZADD", f"{new_indexes}:{kind}", score, run_id)
                s.do("ZREM", f"{old_indexes}:{kind}", run_id)
    for engine in s.engines(f"{old}:thread"):
        rename(f":memory:{engine}")
    if not s.there(new_runs):
        for kind in ("runs", "thread", "queue"):
            rename(f":{kind}")
        return ["moved"]
    for run_id in s.members(old_runs):
        s.do("ZADD", new_runs, s.do("ZSCORE", old_runs, run_id), run_id)
    s.do("DEL", old_runs, f"{old}:thread", f"{old}:queue")
    return ["moved"]


# -- reads

_STATE: Final = (
    "spec", "status", "waiting", "reason", "epoch", "owner", "task", "segment", "started", "finished", "error",
    "stop_reason", "action", "published", "attempts", "queued", "sealed", "publishes", "stop_ms", "first_task",
    "last_task", "restarts", "decisions", "v", "nonce", "title", "labels", "metadata",
)  # fmt: skip


def _entries(s: Sheet, log: str) -> list[list[object]]:
    return [[name, list(pairs)] for name, pairs in s.entries(log)]


def read(s: Sheet) -> Answer:
    record, log, snapshot = s.keys
    r = s.hash(record)
    if not r:
        return []
    fields = [part for name in _STATE if name in r for part in (name, r[name])]
    if r["status"] not in UNFINISHED:
        return [fields, "", "", _entries(s, log)[-1:], []]
    stored = s.hash(snapshot)
    after = s.do("XRANGE", log, f"({stored['cursor']}" if stored else "-", "+")
    return [fields, stored.get("cursor", ""), stored.get("state", ""), after, s.inputs_after(record, "0")]


def page(s: Sheet) -> Answer:
    record, log = s.keys
    cursor, count, max_bytes = s.args
    r = s.hash(record)
    if not r:
        return []
    if count == "0":
        return [r["status"], r["epoch"], s.top(log), "", []]
    entries: list[list[object]] = []
    size = 0
    last = cursor == "18446744073709551615-18446744073709551615"
    for entry in [] if last else s.do("XRANGE", log, f"({cursor}", "+"):
        if len(entries) == int(count) or size >= int(max_bytes):
            break
        entries.append(entry)
        size += len(entry[1][1])
    return [r["status"], r["epoch"], s.top(log), r["spec"], entries]


def dump(s: Sheet) -> Answer:
    record, log, snapshot = s.keys
    if not s.there(record):
        return []
    return [s.do("HGETALL", record), _entries(s, log), s.do("HGETALL", snapshot)]


# -- callbacks


def set_callback(s: Sheet) -> Answer:
    (record,) = s.keys
    before, callback = s.args
    r = s.hash(record)
    if r.get("status") not in UNFINISHED:
        return ["ended"]
    if r.get("callback", "") != before:
        return ["changed"]
    s.put(record, {"callback": callback})
    return ["set"]


def _deliveries(s: Sheet, callbacks: str) -> dict[str, str]:
    """The open deliveries, `<epoch>.<number>`, and their targets."""
    return {
        name: value
        for name, value in s.hash(callbacks).items()
        if all(part.isdigit() for part in name.split(".")) and name.count(".") == 1
    }


def note_attempt(s: Sheet) -> Answer:
    callbacks, due = s.keys
    delivery, member, attempts, due_at = s.args
    if delivery not in s.hash(callbacks):
        s.do("ZREM", due, member)
        return ["gone"]
    if attempts:
        s.put(callbacks, {f"{delivery}:attempts": attempts})
        s.do("ZADD", due, due_at, member)
        return ["noted"]
    s.drop(callbacks, delivery, f"{delivery}:attempts")
    s.do("ZREM", due, member)
    if not _deliveries(s, callbacks):
        s.do("DEL", callbacks)
    return ["noted"]


def redeliver(s: Sheet) -> Answer:
    callbacks, due = s.keys
    now, run_id, epoch, spec, event, targets = s.args
    numbers = {
        target: int(name.split(".")[1])
        for name, target in _deliveries(s, callbacks).items()
        if name.startswith(f"{epoch}.")
    }
    wanted: list[str] = json.loads(targets)
    for target in wanted:
        number = numbers.setdefault(target, max(numbers.values(), default=0) + 1)
        delivery = f"{epoch}.{number}"
        s.put(callbacks, {delivery: target, epoch: event, "spec": spec})
        s.drop(callbacks, f"{delivery}:attempts")
        s.do("ZADD", due, now, f"{run_id}.{delivery}")
    s.live(callbacks, CALLBACKS_KEPT_MS)
    return ["due", len(wanted)]


def drop_callbacks(s: Sheet) -> Answer:
    callbacks, due = s.keys
    for delivery in _deliveries(s, callbacks):
        s.do("ZREM", due, f"{s.args[0]}.{delivery}")
    s.do("DEL", callbacks)
    return ["dropped"]


# -- what is shared: events, slots, places, due work, accounts


def enlist(s: Sheet) -> Answer:
    (listed,) = s.keys
    run_id, ttl = s.args
    s.do("SADD", listed, run_id)
    s.live(listed, ttl)
    return ["listed"]


def keep_event(s: Sheet) -> Answer:
    events, waiting = s.keys
    event_id, entry, ttl, most = s.args
    if event_id not in s.hash(events):
        s.put(events, {event_id: entry})
    s.live_exactly(events, ttl)
    by_age = sorted(s.hash(events), key=lambda name: (int(s.hash(events)[name].split()[0]), name))
    if excess := by_age[: max(0, len(by_age) - int(most))]:
        s.drop(events, *excess)
    return ["kept", s.do("SMEMBERS", waiting)]


def take_slot(s: Sheet) -> Answer:
    (slots,) = s.keys
    now, run_id, limit, live, tag = s.args
    members = s.members(slots)
    if run_id in members:
        return ["taken"]
    counted = [member for member in members if not tag or not member.startswith(tag)]
    if len(counted) >= int(limit):
        return ["full", s.do("ZRANGE", slots, 0, -1, "WITHSCORES")]
    s.do("ZADD", slots, now, run_id)
    s.live(slots, live)
    return ["taken"]


def take_due(s: Sheet) -> Answer:
    (index,) = s.keys
    now, limit, hold = s.args
    taken = s.do("ZRANGEBYSCORE", index, "-inf", now, "WITHSCORES", "LIMIT", 0, limit)
    for member in taken[::2]:
        s.do("ZADD", index, int(now) + int(hold), member)
    return ["taken", taken]


def admit(s: Sheet) -> Answer:
    admitted, waiting, charged = s.keys
    now, window, live, run_id, user, share, over, had_turn = s.args
    for ended in json.loads(over):
        s.do("ZREM", admitted, ended)
        s.do("ZREM", waiting, ended)
    if run_id and run_id not in (*s.members(admitted), *s.members(waiting)):
        counts = s.hash(charged)
        last = float(counts.get("last admitted", "0"))
        number = max(last, float(counts.get(user, "0")))
        s.put(charged, {user: f"{number + float(share):.17g}"})
        s.do("ZADD", waiting, last - 1 if had_turn == "1" else number, run_id)
    fresh: list[str] = []
    while len(s.members(admitted)) < int(window) and s.members(waiting):
        first = s.members(waiting)[0]
        last = float(s.hash(charged).get("last admitted", "0"))
        s.put(charged, {"last admitted": f"{max(float(s.do('ZSCORE', waiting, first)), last + 0.001):.17g}"})
        s.do("ZREM", waiting, first)
        s.do("ZADD", admitted, now, first)
        fresh.append(first)
    if not s.there(waiting):
        s.do("DEL", charged)
    for key in (admitted, waiting, charged):
        s.live_exactly(key, live)
    ahead = s.do("ZRANK", waiting, run_id) if run_id else None
    return ["counted", fresh, -1 if ahead is None else ahead]


def reserve(s: Sheet) -> Answer:
    (account,) = s.keys
    call_id, day, nanos, tokens, limit_nanos, limit_tokens, ttl = s.args
    a = s.hash(account)
    if f"call:{call_id}" in a:
        return ["reserved"]
    spent = [int(a.get(kind, "0")) + int(a.get(f"held_{kind}", "0")) for kind in ("nanos", "tokens")]
    wanted, limits = (int(nanos), int(tokens)), (limit_nanos, limit_tokens)
    if any(limit and had + more > int(limit) for had, more, limit in zip(spent, wanted, limits, strict=True)):
        return ["exceeded", *map(str, spent)]
    s.put(account, {f"call:{call_id}": f"{day} {nanos} {tokens}"})
    s.do("HINCRBY", account, "held_nanos", nanos)
    s.do("HINCRBY", account, "held_tokens", tokens)
    s.live(account, ttl)
    return ["reserved"]


def settle(s: Sheet) -> Answer:
    (account,) = s.keys
    call_id, nanos, tokens, sums = s.args
    held = s.hash(account).get(f"call:{call_id}")
    if held is None:
        return ["unknown"]
    _, held_nanos, held_tokens = held.split()
    s.drop(account, f"call:{call_id}")
    for kind, was, cost in (("nanos", held_nanos, nanos), ("tokens", held_tokens, tokens)):
        s.do("HINCRBY", account, f"held_{kind}", -int(was))
        s.do("HINCRBY", account, kind, cost or was)
    for counter, by in json.loads(sums).items():
        s.do("HINCRBY", account, counter, by)
    return ["settled"]


# -- paces of providers


def draw(s: Sheet) -> Answer:
    (pace,) = s.keys
    now, known, requests, minute_tokens, tokens = s.args
    p = dict(s.hash(pace))
    closures, closed = p.get("closures", "0"), int(p.get("closed_until", "0"))
    if known == closures:
        return ["drawn", closures, 0]
    if closed > int(now) + 60_000:
        return ["closed", closures, closed - int(now)]
    limits = {"requests": (requests, 1), "tokens": (minute_tokens, int(tokens))}
    limits = {name: (int(limit), amount) for name, (limit, amount) in limits.items() if limit}
    if not closed and not limits:
        return ["drawn", closures, 0]
    at = float(now)
    if closed:
        at = max(at, closed + 1000 * math.log(s.do("HINCRBY", pace, "since", 1)) / math.log(2))
    clocks: dict[str, tuple[float, float]] = {}
    for name, (limit, wanted) in limits.items():
        burst, amount = max(1, limit // 10), min(wanted, limit)
        each = 60_000 / (limit - burst + 1)
        ahead = max(0, burst - amount) * each
        clock = float(p.get(name, closed + ahead if closed else 0))
        clocks[name] = (clock, 60_000 / (limit // amount) if amount > burst else amount * each)
        at = max(at, clock - ahead)
    latest = max(at, closed)
    for name, (clock, cost) in clocks.items():
        put = max(clock, at) + cost
        s.put(pace, {name: f"{put:.4f}"})
        latest = max(latest, put)
    s.live(pace, math.ceil(latest - int(now)) + 120_000)
    return ["drawn", closures, math.ceil(at - int(now) - 0.5)]


def correct(s: Sheet) -> Answer:
    (pace,) = s.keys
    now, known, requests_limit, tokens_limit, requests, tokens = s.args
    p = dict(s.hash(pace))
    if p.get("closures", "0") != known:
        return ["closed"]
    for name, limit, more in (("requests", requests_limit, requests), ("tokens", tokens_limit, tokens)):
        if limit and int(more) and name in p:
            each = 60_000 / (int(limit) - max(1, int(limit) // 10) + 1)
            change = max(-int(limit), min(int(limit), int(more)))
            clock = max(float(p[name]), int(now) if change > 0 else 0) + change * each
            s.put(pace, {name: f"{clock:.4f}"})
            s.live(pace, max(0, math.ceil(clock - int(now))) + 120_000)
    return ["corrected"]


def shut(s: Sheet) -> Answer:
    (pace,) = s.keys
    now, until = s.args
    closed = int(s.hash(pace).get("closed_until", "0"))
    if int(until) <= closed + 250:
        return ["closed", closed]
    s.put(pace, {"closed_until": until, "since": 0})
    s.drop(pace, "requests", "tokens")
    s.do("HINCRBY", pace, "closures", 1)
    s.live(pace, int(until) - int(now) + 120_000)
    return ["closed", int(until)]


VERBS: Final[Mapping[str, Callable[[Sheet], Answer]]] = {
    **RUNS,
    **{
        one.__name__: one
        for one in (
            promote, copy, describe, forget, erase, release, move, read, page, dump, set_callback, note_attempt,
            redeliver, drop_callbacks, enlist, keep_event, take_slot, take_due, admit, reserve, settle,
            draw, correct, shut,
        )
    },
}  # fmt: skip
"""Every verb by its script's name."""
